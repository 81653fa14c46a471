"""Foreign texts on a terminal, in model cards and in our files are shown and have no effect."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from graded_runs import write_run
from markdown_it import MarkdownIt
from shaped_eval.errors import UserError
from shaped_eval.hub.entries import eval_result, index_result, read_variants, table
from shaped_eval.hub.model_card import split_card, with_results
from shaped_eval.hub.samples import samples_card
from shaped_eval.records import append_jsonl, read_jsonl
from shaped_eval.report import report_run
from shaped_eval.reporting.document import Text, to_markdown
from shaped_eval.untrusted.texts import as_code, encodable, fenced, in_markdown, one_line, visible

from shaped_trl import cli
from shaped_trl.commands import evaluation
from shaped_trl.hub.cards import ModelFact
from shaped_trl.hub.facts import DataFact
from shaped_trl.training.card import procedure
from shaped_trl.training.config import ShapedConfig

ESCAPES = "\x1b]0;title\x07\x1b[31mred\x9b2J\u202egnp\r\x00"
MARKUP = [
    "<img src=x onerror=alert(1)>",
    "</td><script>alert(1)</script>",
    "[text](https://evil.example)",
    "![picture](https://evil.example/x.png)",
    "[text][1] [1]: https://evil.example",
    "https://evil.example and www.evil.example and me@evil.example",
    "<https://evil.example>",
    "**bold** _it_ __strong__ ~~gone~~ `code` $x$",
    "a | b | c",
    "line\n\n# heading\n- item\n```\ncode",
    "<!-- end of evaluation results -->",
    "&lt;b&gt; \\<b\\> \\",
    "--- \n key: value",
]


@pytest.mark.parametrize("text", MARKUP)
def test_markup_in_a_name_is_words(text):
    parser = MarkdownIt("gfm-like", {"linkify": False}).enable("table")
    html = parser.render(f"a {in_markdown(text)} z")
    assert html.count("<") == 2, html  # the paragraph's own tags
    shown = html.removeprefix("<p>a ").removesuffix(" z</p>\n")
    for code, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        shown = shown.replace(code, character)
    assert shown == one_line(text), "nothing of it is lost"
    rows = parser.render(f"| a | b |\n|---|---|\n| {in_markdown(text)} | z |\n")
    assert rows.count("<td>") == 2
    assert rows.count("<td>z</td>") == 1
    assert not re.search(r"https?://|www\.|\w@", in_markdown(text)), "no address is made a link"


def test_plain_names_are_not_escaped():
    for name in (
        "out_gsm8k_abel_7b.jsonl",
        "n = 16, temperature 0.7, at most 1024 tokens",
        "math/3 (0.9.0)",
        "a+b=c",
    ):
        assert in_markdown(name) == name
        assert as_code(name) == f"`{name}`"
    assert as_code("a`b") == "a\\`b"


def test_a_block_of_code_ends_where_it_should():
    text = "a\n```\n````\n<b>"
    html = MarkdownIt().render(fenced(text, "text"))
    assert html == '<pre><code class="language-text">a\n```\n````\n&lt;b&gt;\n</code></pre>\n'


def test_a_report_defines_no_links():
    assert "<a " not in MarkdownIt().render(
        to_markdown("t", [Text("[x]: https://evil.example"), Text("see [x]")])
    )


def test_what_a_terminal_acts_on_stands_as_its_code():
    assert visible("a\tb\nc") == "a\tb\nc"
    shown = visible(ESCAPES)
    assert shown.isprintable()
    assert "[U+001B][31mred[U+009B]2J[U+202E]gnp[U+000D][U+0000]" in shown
    assert one_line("a\r\nb \x1b c") == "a b [U+001B] c"


def hostile_mirror(place: Path) -> Path:
    for split in ("train", "test"):
        path = place / "openai/gsm8k/main" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        row = {"question": f"How{ESCAPES} many \ud800 are there?", "answer": f"{ESCAPES}\n#### 3"}
        path.write_text(json.dumps(row) + "\n")
    return place


def test_a_shown_prompt_does_not_act_on_the_terminal(tmp_path, capfd):
    mirror = hostile_mirror(tmp_path)
    assert cli.main(["sample", "--show", "gsm8k", "--shots", "0", "--hub_mirror", str(mirror)]) == 0
    out, err = capfd.readouterr()
    assert "How[U+001B]]0;title[U+0007]" in out
    for text in (out, err):
        assert all(character.isprintable() for character in text if character not in "\n\t"), repr(
            text
        )


def test_errors_and_counts_do_not_act_on_the_terminal(tmp_path, capsys):
    assert cli.main(["report", f"no{ESCAPES[:-1]}run"]) == 2
    assert capsys.readouterr().err.rstrip("\n").isprintable()
    run = write_run(tmp_path / "run", {"math": ["pp"]}, n=2)
    rows = [{**row, "status": f"pass{ESCAPES}"} for row in read_jsonl(run / "verdicts.jsonl")]
    (run / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation._print_counts(run)
    assert capsys.readouterr().out.rstrip("\n").isprintable()


def test_lone_surrogates_do_not_reach_our_files(tmp_path):
    """JSON can hold lone surrogates, UTF-8 cannot; a row that was read must be writable."""
    path, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    path.write_text(
        '{"a": "x\\ud83d", "b": ["\\uDFFF"], "\\ud800": {"c": "\\ud83d\\ude00"}}\n{"a": "\\\\ud83d"}\n'
    )
    rows = list(read_jsonl(path))
    append_jsonl(out, rows)
    assert list(read_jsonl(out)) == rows
    bad = encodable("\ud800")
    assert "\ufffd" in bad
    assert rows == [{"a": f"x{bad}", "b": [bad], bad: {"c": "😀"}}, {"a": "\\ud83d"}]


@pytest.mark.parametrize(
    "name", ["x](https://evil.example) <b>|`.jsonl", "a\n# H --> <!-- results of z -->\n.jsonl"]
)
def test_cards_quote_the_answers_file_by_its_words(name, tmp_path):
    run = write_run(tmp_path / "run", {f"{name}": ["ppaa"], "gsm8k": ["ppaa"]}, answers=name)
    variants = read_variants(run, report_run(run))
    tables = {variant.slug: table(variant, None) for variant in variants}
    results = [index_result(variant, None) for variant in variants]
    card = with_results("", name, results, tables, "How to read it.")
    again = with_results(card, name, results, tables, "How to read it.")
    assert again == card, "a table is found again, and replaced"
    for text in (card, samples_card(name, variants)):
        metadata, words = split_card(text)
        assert "\n" not in json.dumps(metadata, ensure_ascii=False).replace("\\n", "")
        html = MarkdownIt("gfm-like", {"linkify": False}).render(words)
        for tag in ("<a ", "<b>", "<code>|", "<h1>H"):
            assert tag not in html
        assert html.count("<table>") == 2
        assert html.count("<!-- results of") == 2
    notes = eval_result(variants[1], None)["notes"]
    assert notes.isprintable()
    assert yaml.safe_load(yaml.safe_dump(notes)) == notes


def test_training_cards_quote_names_by_their_words():
    hostile = "a|b](https://evil.example) <b>`"
    fact = DataFact(hostile, split=hostile, license=hostile)
    parser = MarkdownIt("gfm-like", {"linkify": False})
    html = parser.render(f"| a | b | c | d | e | f |\n|---|---|---|---|---|---|\n{fact.row()}\n")
    assert html.count("<td") == 6
    for on_hub in (True, False):
        model = ModelFact(hostile, on_hub, adapter=True, chat=False)
        html = parser.render(model.introduction() + "\n" + model.quick_start('x"); import os; ("'))
        assert "<b>" not in html
        assert html.count("<a ") == 2 + on_hub, (
            "TRL, the paper, and the model where it is on the Hub"
        )
    code = model.quick_start('x"); import os; ("').split("```")[1].removeprefix("python")
    calls = [line for line in code.splitlines() if "import os" in line]
    for line in calls:
        compiled = compile(line, "card", "exec")
        assert 'x"); import os; ("' in compiled.co_consts


@pytest.mark.parametrize("source", MARKUP)
def test_a_training_card_quotes_the_sources_of_its_rows(source, tmp_path):
    """The column `source` of the data becomes a column of the log, and a row of the card."""
    column = f"eval_nll_source_{source}"
    rows = [{"step": 1, "tokens": 100, "nll": 1.0, column: 2.5}]
    card = procedure(ShapedConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True), rows)
    html = MarkdownIt("gfm-like", {"linkify": False}).render(card)
    plain = card.replace(in_markdown(source), "name")
    assert plain != card
    assert html.count("<") == MarkdownIt("gfm-like", {"linkify": False}).render(plain).count("<")


def test_published_numbers_are_those_of_the_rows(tmp_path):
    """results.json of a foreign run holds whatever its author has written there."""
    run = write_run(tmp_path / "run", {"gsm8k": ["ppaa", "pppp"]})
    results = report_run(run, pass_at=[1, 2])
    honest = read_variants(run, results)
    forged = json.loads(json.dumps(results))
    forged["gsm8k"] |= {
        "problems": "<img src=x onerror=alert(1)>\n\n# Forged",
        "n": "1 <b>",
        "truncated": "<b>",
        "accuracy": "<b>",
    }
    forged["gsm8k"]["metrics"]["avg@4"] = {"value": 0.99, "low": "<b>", "high": float("nan")}
    forged["gsm8k"]["metrics"] |= {f"pass@{k}": {} for k in ("<b>", "5", "0", "1" * 5000)}
    assert read_variants(run, forged) == honest
    (variant,) = honest
    assert variant.entry["metrics"] == results["gsm8k"]["metrics"]
    assert {"pass@1", "pass@2", "avg@4"} <= set(variant.entry["metrics"])
    for damaged in ({}, {"gsm8k": []}, {"gsm8k": {"metrics": 1}}):
        with pytest.raises(UserError, match="repeat `shaped-trl report"):
            read_variants(run, damaged)


def test_the_terminal_sees_rollouts_and_obeys_none(capsys, monkeypatch):
    from trl.trainer import grpo_trainer

    from shaped_trl.rlvr.printing import print_rollouts_visibly, print_visibly

    monkeypatch.setenv("COLUMNS", "600")
    print_rollouts_visibly()
    assert grpo_trainer.print_prompt_completions_sample is print_visibly
    chat = [{"role": "user", "content": f"Q{ESCAPES}"}]
    print_visibly(
        [chat],
        [f"[red]A{ESCAPES}"],
        {"accuracy": [1.0]},
        [0.5],
        3,
        extra={"verdict": [f"pass{ESCAPES}"]},
    )
    out = capsys.readouterr().out
    assert "[red]A[U+001B]" in out
    assert "\x1b]" not in out
    assert "\x9b" not in out


def test_a_row_that_names_no_file_is_still_an_error(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": \x1b}\n')
    with pytest.raises(UserError, match=r"rows.jsonl:1: not a JSON row"):
        list(read_jsonl(tmp_path / "rows.jsonl"))
