"""The pages of a report: groups, averages, samples to read, warnings, pictures, locations."""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from browser import check_layout
from graded_runs import write_run
from html_pages import check_self_contained
from shaped_eval.report import report
from shaped_eval.reporting.cautions import cautions, cautions_of_many
from shaped_eval.reporting.document import Image, readable, to_markdown
from shaped_eval.reporting.examples import (
    KINDS,
    _Lowest,
    choose_examples,
    common_start,
    example_blocks,
    shorten,
)
from shaped_eval.reporting.plots import plot_flips, plot_solve_rates
from shaped_eval.reporting.results import read_runs
from shaped_eval.reporting.tables import (
    headline_metrics,
    layout_of_many,
    layout_of_one,
)

from shaped_trl.cli import main

EVIL = "</details></pre><script>x</script>\n```` | \u202e\x00\x1b[2J {} \ud800 "
MATH = {
    "gsm8k": ["ppab", "aabp", "uuuu", "puuT", "pppp", "abpP", "eaat"],
    "math500": ["aaaa", "pppp", "ppaA"],
}
LOGIC = {"arc_easy": ["pppp", "pppa", "aaaa"], "mine": ["ppaa", "aaaa", "pppp"]}


def with_ascii_escapes(folder: Path, completion: str) -> None:
    """Replace the completions by one that JSON can only hold in escaped form."""
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    lines = [
        json.dumps({**row, "completion": completion + str(index)}) + "\n"
        for index, row in enumerate(rows)
    ]
    (folder / "samples.jsonl").write_text("".join(lines))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two runs in folders of the same name, with hostile completions, prompts, golds and models."""
    out = tmp_path_factory.mktemp("pages")
    first = write_run(
        out / "first" / "eval", {**MATH, **LOGIC}, prompt=EVIL[:-2], gold=EVIL[:-2], model="<m|1>"
    )
    second = write_run(
        out / "second" / "eval",
        {**LOGIC, **MATH},
        n=4,
        gold=EVIL[:-2],
        model="m2",
        max_new_tokens=9,
    )
    with_ascii_escapes(first, EVIL * 300)
    return first, second


@pytest.fixture(scope="module")
def printed(folders) -> str:
    return report(folders)


def cells(text: str, caption: str) -> dict[str, list[str]]:
    """Rows of the Markdown table below a caption: first cell → the others."""
    lines = text.split(f"**{caption}**\n\n")[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_every_page_is_whole_and_fetches_nothing(folders, printed):
    for folder in (
        *folders,
        folders[0].parent.parent / "comparison",
        folders[0].parent / "comparison",
    ):
        if folder.exists():
            page = check_self_contained((folder / "report.html").read_text())
            assert page.tags.count("img") >= 8
    assert (folders[0].parent / "comparison" / "report.html").exists()
    page = check_self_contained((folders[0] / "report.html").read_text())
    examples = sum(len(found) for found in choose_examples(folders[0], 2).values())
    problems = sum(map(len, (MATH | LOGIC).values()))
    # and every metric, and the reliability, of 4 benchmarks, and all problems with 4 samples each
    assert page.tags.count("details") == examples + 8 + 5 * problems
    assert page.pres.count("\n" + readable(EVIL[:-2])) >= examples  # golds


def test_every_page_fits_the_screens_of_a_desk_and_of_a_phone(folders, printed, tmp_path):
    for folder in (folders[0], folders[0].parent / "comparison"):
        page = (folder / "report.html").read_text()
        check_layout(page, tmp_path, page.count("<img "))


def test_rows_are_grouped_with_averages(folders):
    runs = read_runs(folders)
    assert [run.label for run in runs] == ["first/eval", "second/eval"]
    text = to_markdown(
        "T", [layout_of_one(runs[0], ["avg@n", "pass@4"]), layout_of_many(runs, "avg@n")]
    )
    one, many = cells(text, "Results, %"), cells(text, "Avg@n, %")
    names = [
        "**logic**",
        "arc_easy",
        "**math**",
        "gsm8k",
        "math500",
        "**Average, math (of 2 benchmarks)**",
        "**other**",
        "mine",
        "**Average, the paper's groups (of 3 benchmarks)**",
        "**Average, all (of 4 benchmarks)**",
    ]
    assert list(one) == list(many) == names
    values = {
        name: np.mean([row.lower().count("p") / 4 for row in rows])
        for name, rows in (MATH | LOGIC).items()
    }
    for name, value in values.items():
        assert one[name][0].startswith(f"{100 * value:.1f} [")
    for title, members in (("math", ["gsm8k", "math500"]), ("all", list(values))):
        expected = f"{100 * np.mean([values[name] for name in members]):.1f} ["
        found = next(row for name, row in one.items() if name.startswith(f"**Average, {title} "))
        assert found[0].startswith(expected)
        assert found == [*found[:2], "", "", "", ""]
    assert one["gsm8k"][2:] == ["7", "4", "7.1%", "21.4%"]
    assert many["gsm8k"][1].endswith("(n 4, 7.1% cut, 21.4% unparsed)")


def test_averages_are_of_what_every_run_has(folders, tmp_path):
    runs = read_runs(
        [
            folders[0],
            write_run(tmp_path / "less", {"gsm8k": list("paupppa"), "mine": ["p"] * 3}, n=1),
        ]
    )
    many = cells(to_markdown("T", [layout_of_many(runs, "avg@n")]), "Avg@n, %")
    assert many["math500"][1] == "–"
    assert "**Average, math (of 2 benchmarks)**" not in many
    assert "**Average, all (of 2 benchmarks)**" in many


def test_headline_metrics_are_few(folders):
    runs = read_runs([folders[0]])
    assert headline_metrics(runs, None) == ["avg@n", "pass@2", "pass@4", "cons@n"]
    assert headline_metrics(read_runs([folders[0]], [1, 3]), [1, 3]) == [
        "avg@n",
        "pass@3",
        "cons@n",
    ]


def by_hash(folder: Path, per_kind: int) -> dict[str, set[tuple[str, str, int]]]:
    """The same choice of samples, made with everything in memory."""
    rank = {}
    verdicts = [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for row in verdicts:
        key = f"{row['problem_id']}\0{row['sample_index']}".encode()
        rank[row["problem_id"], row["sample_index"]] = hashlib.sha256(key).digest()
    chosen: dict[str, set[tuple[str, str, int]]] = {}
    for benchmark in {key[0].split("/")[0] for key in rank}:
        mine: set[tuple[str, str, int]] = set()
        for kind in KINDS:
            of_kind = [
                (r["problem_id"], r["sample_index"]) for r in verdicts if r["status"] == kind
            ]
            if kind == "length":
                of_kind = [
                    (r["problem_id"], r["sample_index"])
                    for r in samples
                    if r["finish_reason"] == "length"
                ]
                of_kind = [key for key in of_kind if not any(key == each[1:] for each in mine)]
            of_kind = sorted(
                (key for key in of_kind if key[0].startswith(benchmark + "/")), key=rank.get
            )
            mine |= {(kind, *key) for key in of_kind[:per_kind]}
        chosen[benchmark] = mine
    return chosen


@pytest.mark.parametrize("per_kind", [1, 2])
def test_samples_to_read_are_those_of_lowest_hash(folders, tmp_path, per_kind):
    expected = by_hash(folders[0], per_kind)
    found = choose_examples(folders[0], per_kind)
    assert {
        name: {(each.kind, *each.key) for each in examples} for name, examples in found.items()
    } == expected
    kinds = list(KINDS)
    for examples in found.values():
        places = [kinds.index(each.kind) for each in examples]
        assert places == sorted(places)
    shuffled = shutil.copytree(folders[0], tmp_path / "shuffled")
    for name in ("samples.jsonl", "verdicts.jsonl"):
        lines = (shuffled / name).read_text().splitlines(keepends=True)
        random.Random(1).shuffle(lines)
        (shuffled / name).write_text("".join(lines))
    assert choose_examples(shuffled, per_kind) == found


def test_samples_to_read_are_a_fair_draw():
    """Similar ids are chosen independently: as many pairs of neighbours as by chance.

    Five of 200 problems lie in five different tens with probability 0.602 (20 tens of 10 problems).
    """
    apart = 0
    for benchmark in range(300):
        keys = [(f"set{benchmark}/{problem}", 0) for problem in range(200)]
        chosen = _Lowest(5)
        for key in keys:
            chosen.offer(("", ""), key)
        tens = {int(key[0].partition("/")[2]) // 10 for _, key, _ in chosen.kept()}
        apart += len(tens) == 5
    expected = math.prod(10 * (20 - i) / (200 - i) for i in range(5))
    assert abs(apart / 300 - expected) < 4 * math.sqrt(expected * (1 - expected) / 300)


def test_samples_to_read_are_shown_with_prompt_answer_and_gold(tmp_path):
    folder = write_run(
        tmp_path / "run",
        {"gsm8k": ["pA"], "aime24": ["uu"]},
        n=2,
        completion="y" * 9_000 + "z",
        gold="42",
    )
    rows = [json.loads(line) for line in (folder / "problems.jsonl").read_text().splitlines()]
    rows[0]["prompt"] = [{"role": "user", "content": "What?"}]
    rows[1]["prompt"] = ""
    (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = to_markdown("T", example_blocks(folder, 2))
    assert "<summary>right · gsm8k/0 · sample 0 · 10 tokens</summary>" in text
    assert "<summary>wrong · truncated · gsm8k/0 · sample 1 · 10 tokens</summary>" in text
    assert "user: What?" in text
    assert "Prompt: not recorded." in text
    assert "y\n[… 5,001 characters left out …]\ny" in text
    assert "z\n```" in text
    assert "Answer found:\n\n```text\nA\n```\n\nGold:\n\n```text\n42\n```" in text
    assert "Answer found:\n\n```text\nnone\n```" in text


def test_texts_are_shortened_in_the_middle():
    assert shorten("abcdef", 4, 2) == "abcdef"
    assert shorten("abcdefg", 4, 2) == "abcd\n[… 1 characters left out …]\nfg"


def test_what_all_prompts_begin_with_is_found():
    prompts = [
        ("a", "One\n\nQuestion: left"),
        ("a", "One\n\nQuestion: less"),
        ("b", "alone\nhere"),
        ("a", "One\n\nQuestion: x"),
    ]
    assert common_start(prompts) == {"a": "One\n\nQuestion: ", "b": ""}
    assert common_start([("c", "Find it"), ("c", "Fold it")]) == {"c": ""}
    assert common_start([("d", "same\nq"), ("d", "same\nq")]) == {"d": "same\n"}


def test_warnings_name_what_weakens_the_numbers(folders, tmp_path):
    greedy = write_run(
        tmp_path / "greedy", {"big": ["p"] * 90 + ["a"] * 10, "edge": ["p"] * 99 + ["e"] * 1}, n=1
    )
    record = json.loads((greedy / "run.json").read_text())
    record["settings"]["temperature"] = 0.0
    (greedy / "run.json").write_text(json.dumps(record))
    (run,) = read_runs([greedy])
    said = "\n".join(cautions(run))
    assert "Greedy decoding" in said
    assert "edge: a value is near 0 or 100%" in said
    assert "edge: grading timed out" not in said  # exactly 1%
    assert "fewer than 30 problems" not in said
    assert all(metric["sampling_se"] is None for metric in run.results["big"]["metrics"].values())
    first, second = read_runs(folders)
    said = "\n".join(cautions(first))
    assert "gsm8k, math500, arc_easy, mine: fewer than 30 problems" in said
    assert "gsm8k, math500: more than 5% of samples were cut" in said
    assert "gsm8k: no answer could be extracted from more than 5% of samples" in said
    assert "gsm8k: grading timed out or failed on more than 1% of samples" in said
    assert all(metric["sampling_se"] > 0 for metric in first.results["gsm8k"]["metrics"].values())
    both = cautions_of_many([first, second])
    assert any(sentence.startswith("All runs: gsm8k: no answer could") for sentence in both)
    assert any("different token limits" in sentence for sentence in both)


def test_a_heat_map_sorts_problems_and_scales():
    rng = np.random.default_rng(0)
    rates = {"a": rng.random(20_000), "b": rng.random(20_000)}
    figure = plot_solve_rates("many", rates)
    image = np.asarray(figure.axes[0].images[0].get_array())
    assert image.shape == (2, 600)
    mean = image.mean(axis=0)
    assert np.all(np.diff(mean) >= 0)
    assert image.mean(axis=1) == pytest.approx([rates["a"].mean(), rates["b"].mean()], abs=1e-3)
    few = np.asarray(
        plot_solve_rates("few", {"a": np.array([1.0, 0.0, 0.5])}).axes[0].images[0].get_array()
    )
    assert few.tolist() == [[0.0, 0.5, 1.0]]


def test_dots_of_flips_count_problems():
    figure = plot_flips(
        "t", ("a", "b"), np.array([0.0, 0.0, 1.0, 0.5]), np.array([0.5, 0.5, 0.0, 0.5])
    )
    dots = figure.axes[0].collections[0]
    assert dots.get_offsets().tolist() == [[0.0, 0.5], [0.5, 0.5], [1.0, 0.0]]
    assert (dots.get_sizes() / dots.get_sizes()[1]).tolist() == [2.0, 1.0, 1.0]
    assert [text.get_text() for text in figure.axes[0].texts] == ["2", "1", "1"]
    assert figure.axes[0].get_title() == "t: 2 better, 1 worse"


def test_names_of_any_script_are_drawn_and_linked(tmp_path):
    folder = write_run(tmp_path / "名前 $x^2$ <b>", {"mine": ["pa", "ap"]}, n=2)
    report([folder], out=tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    for target in re.findall(r"!\[[^]]*\]\(([^)]*)\)", text):
        assert (tmp_path / "out" / target).read_bytes().startswith(b"\x89PNG")
    check_self_contained((tmp_path / "out" / "report.html").read_text())


def test_out_takes_everything_and_runs_stay_as_they_are(tmp_path):
    first, second = (write_run(tmp_path / name, {"gsm8k": ["p", "a"]}, n=1) for name in "ab")
    report([first, second], out=tmp_path / "out")
    assert not (first / "report.html").exists()
    assert not (tmp_path / "comparison").exists()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"report.html", "report.md", "results.json", "solve_rates_gsm8k.png"} <= names
    assert "pass_at_k_gsm8k.png" not in names  # one sample per problem gives no curve


def test_the_command_writes_prints_and_refuses(folders, tmp_path, capsys):
    first = str(folders[0])
    study = tmp_path / "study"
    study.mkdir()
    (study / "study.yaml").write_text("name: x")
    empty = write_run(tmp_path / "empty", {})
    for name in ("problems", "samples", "verdicts"):
        (empty / f"{name}.jsonl").touch()
    for arguments, message in (
        ([], "the following arguments are required: RUN"),
        ([first, first], "is given twice: give each run once"),
        ([first, first + "/../eval"], "is given twice"),
        ([first, str(study)], "the report of a study is about that study alone"),
        (
            [str(study), "--out", str(tmp_path / "o")],
            "the report of a study is about that study alone",
        ),
        ([first, "--out", first], "is the folder of a run"),
        ([str(empty)], "has no problems"),
        ([first, "--pass_at", "1,x"], "'x' is not a valid k"),
    ):
        assert main(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert len(error.splitlines()) == 1
    assert main(["report", "--help"]) == 0
    assert "--out" in capsys.readouterr().out


def test_pictures_have_words_for_those_who_do_not_see_them():
    image = Image("p.png", "Caption", b"", alt="What it shows")
    assert to_markdown("T", [image]).endswith("![What it shows](p.png)\n\nCaption\n")
