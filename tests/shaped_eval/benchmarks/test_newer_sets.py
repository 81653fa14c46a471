"""The competitions of 2025 and 2026, BeyondAIME and GPQA, with made-up rows in the Hub's columns."""

from __future__ import annotations

import json
import re

import pytest
from shaped_eval.benchmarks import check_hub
from shaped_eval.benchmarks.check_hub import Card, differences
from shaped_eval.benchmarks.harness.tasks import HARNESS
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.benchmarks.registry import BENCHMARKS
from shaped_eval.benchmarks.suites import MATH2026
from shaped_eval.benchmarks.terms import TERMS, Terms, terms_of
from shaped_eval.errors import UserError
from shaped_eval.grading.math.grader import grade
from shaped_eval.grading.text.choice import grade as choose
from shaped_eval.hub.leaderboards import LEADERBOARDS
from shaped_eval.sample import sample

from shaped_trl import cli

ASKED = "\nReason step by step, and put the final answer within \\boxed{}.\n\nSolution:"
# gold -> other writings of it, and one wrong neighbour
GOLDS = {
    "277": (["277.0", "\\text{277}", "277."], "278"),
    "\\frac{1}{576}": (["1/576", "\\dfrac{1}{576}", "\\frac{2}{1152}"], "\\frac{1}{567}"),
    "9\\sqrt{23}": (["9 \\sqrt{23}", "\\sqrt{1863}", "3\\sqrt{207}"], "9\\sqrt{32}"),
    "2^{99}": (["2 \\cdot 2^{98}", "4^{49}\\cdot 2", "2^{100}/2"], "2^{98}"),
    "\\sqrt{5}-1": (["-1+\\sqrt{5}", "\\sqrt5 - 1", "(\\sqrt{5}-1)"], "\\sqrt{5}+1"),
}
GPQA = {
    "High-level domain": "Physics",
    "Question": "Which particle is the lightest? ",
    "Correct Answer": "the neutrino\n",
    "Incorrect Answer 1": "the electron",
    "Incorrect Answer 2": "the muon",
    "Incorrect Answer 3": "the proton",
    "Record ID": "rec1",
}


@pytest.fixture
def newer(tmp_path):
    """A mirror of rows that nobody asked anywhere."""
    golds = list(GOLDS)
    for name in (*MATH2026, "gpqa_diamond"):
        source = BENCHMARKS[name]
        rows = [
            {"problem_idx": i + 1, "problem": f"Find $w_{i}$.", "answer": gold}
            for i, gold in enumerate(golds)
        ]
        if name == "aime26":
            rows = [{**row, "answer": 70 + i} for i, row in enumerate(rows)]
        elif name == "hmmt_feb26":
            rows = [{**row, "problem_type": ["Algebra", "Geometry"]} for row in rows]
        elif name == "beyondaime":
            rows = [{"problem": "Find $b$.", "answer": 33124147}]
        elif name == "gpqa_diamond":
            rows = [GPQA, {**GPQA, "Question": "Which is the heaviest?"}]
        folder = tmp_path / source.dataset_id / (source.config or "default")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{source.split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.parametrize("name", MATH2026)
def test_the_first_prompt_of_each_competition(name, newer):
    first, *rest = load_problems([name], hub_mirror=newer)
    letter = "b" if name == "beyondaime" else "w_0"
    assert first.prompt == f"Problem: Find ${letter}$.{ASKED}"
    known = {"aime26": ("1", "70"), "beyondaime": ("0", "33124147")}
    own_id, gold = known.get(name, ("1", "277"))
    assert (first.problem_id, first.gold, first.grader) == (f"{name}/{own_id}", gold, "math")
    assert first.meta.get("subject") == ("Algebra, Geometry" if name == "hmmt_feb26" else None)
    assert [problem.meta["row"] for problem in rest] == list(range(1, 1 + len(rest)))
    (chat,) = load_problems([name], hub_mirror=newer, limit=1, chat=True)
    assert chat.prompt.startswith(f"Find ${letter}$.\n\n")


@pytest.mark.parametrize("gold", GOLDS)
def test_golds_in_other_writings_pass_and_a_neighbour_fails(gold):
    writings, wrong = GOLDS[gold]
    boxed = "So the answer is $\\boxed{%s}$."
    assert [grade(boxed % each, gold)[0] for each in [gold, *writings]] == ["pass"] * 4
    assert grade(boxed % wrong, gold)[0] == "fail"


def test_gpqa_has_the_same_options_in_each_run_and_a_gold_among_them(newer):
    first, second = load_problems(["gpqa_diamond"], hub_mirror=newer)
    options = re.findall(r"^\((\w)\) (the \w+)$", first.prompt, re.MULTILINE)
    assert [letter for letter, _ in options] == list("ABCD")
    texts = {"the neutrino", "the electron", "the muon", "the proton"}
    assert {text for _, text in options} == texts
    (right,) = [letter for letter, text in options if text == "the neutrino"]
    assert first.gold == f"({right}) the neutrino"
    assert load_problems(["gpqa_diamond"], hub_mirror=newer)[0].prompt == first.prompt
    assert choose(f"The tau is heavy.\nAnswer: ({right})", first.gold)[0] == "pass"
    wrong = "ABCD"["ABCD".index(right) - 1]
    assert choose(f"Answer: ({wrong})", first.gold)[0] == "fail"
    assert (first.problem_id, first.meta["subject"]) == ("gpqa_diamond/0", "Physics")
    assert second.prompt != first.prompt


def test_the_right_answer_of_gpqa_has_no_favourite_letter():
    """Over 400 questions each letter is right for about 100; 5 standard deviations are 43."""
    read = BENCHMARKS["gpqa_diamond"].read
    letters = [read({**GPQA, "Question": f"Question {i}?"}).gold[1] for i in range(400)]
    assert all(abs(letters.count(letter) - 100) < 43 for letter in "ABCD")


def test_a_row_of_gpqa_whose_answers_are_the_same_is_refused(newer):
    path = newer / "Idavidrein/gpqa/gpqa_diamond/train.jsonl"
    path.write_text(json.dumps({**GPQA, "Incorrect Answer 2": "the  neutrino"}) + "\n")
    with pytest.raises(UserError, match=r"row 0 cannot be read .*stands among the wrong ones"):
        load_problems(["gpqa_diamond"], hub_mirror=newer)


def test_a_model_samples_them(newer, make_config):
    config = make_config(benchmarks="hmmt_feb26,gpqa_diamond", hub_mirror=str(newer), limit=2, n=2)
    folder = sample(config, progress=False)
    assert len((folder / "samples.jsonl").read_text().splitlines()) == 2 * 2 * 2


def test_the_terms_of_every_shipped_benchmark_are_written_down():
    assert set(TERMS) == {*BENCHMARKS, *HARNESS}
    assert [name for name in TERMS if not terms_of(name).publishable] == ["gpqa_diamond"]
    assert terms_of("my_own").publishable


def test_leaderboards_are_of_whole_data_sets_of_the_table():
    for name, (dataset_id, _, rows) in LEADERBOARDS.items():
        source = BENCHMARKS.get(name) or HARNESS[name]
        assert (dataset_id, rows) == (source.dataset_id, TERMS[name].rows)


def test_differences_from_the_hub_are_named():
    terms = Terms("mit", 30)
    assert differences(terms, Card("mit", False, 30)) == []
    assert differences(terms, Card("mit", False, None)) == []
    found = differences(terms, Card("cc0-1.0", True, 31))
    assert found == [
        "licence 'cc0-1.0', in the table 'mit'",
        "gated True, in the table False",
        "31 rows, in the table 30",
    ]


def test_the_check_reads_the_first_row_and_says_what_differs(newer, monkeypatch, capsys):
    cards = {"MathArena/aime_2026": Card(TERMS["aime26"].licence, False, 30)}
    monkeypatch.setenv("SHAPED_TRL_HUB_MIRROR", str(newer))
    monkeypatch.setattr(check_hub, "card_of", lambda dataset_id, *_: cards[dataset_id])
    assert check_hub.main(["aime26"]) == 0
    (newer / "MathArena/aime_2026/default/train.jsonl").write_text('{"question": "?"}\n')
    assert check_hub.main(["aime26", "brumo25", "gsm8k"]) == 1
    as_table, columns, unreachable, missing = capsys.readouterr().out.splitlines()
    assert as_table == "aime26: as in the table"
    assert "no column 'answer'" in columns
    assert "brumo25: MathArena/brumo_2025 could not be asked for: KeyError" in unreachable
    assert "no data set 'openai/gsm8k'" in missing


def test_show_names_the_new_sets(newer, capfd):
    assert cli.main(["sample", "--show", "cmimc25", "--hub_mirror", str(newer)]) == 0
    assert capfd.readouterr().out == f"Problem: Find $w_0$.{ASKED}"
