"""IFEval with a made-up row in its columns, with and without what lm-eval's checks need."""

from __future__ import annotations

import json

import nltk
import pytest
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.benchmarks.suites import MODERN
from shaped_eval.config import SampleConfig
from shaped_eval.errors import UserError
from shaped_eval.grading import GradeRequest, GraderPool
from shaped_eval.grading.text import ifeval
from shaped_eval.sample import sample

ROW = {
    "key": 7,
    "prompt": "Tell of a cat in lowercase, without commas, in at least 2 sentences.",
    "instruction_id_list": [
        "punctuation:no_comma",
        "length_constraints:number_sentences",
        "change_case:english_lowercase",
    ],
    "kwargs": [
        {"num_sentences": None, "relation": None},
        {"num_sentences": 2, "relation": "at least"},
        {"num_sentences": None, "relation": None},
    ],
}


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "google/IFEval/default/train.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(ROW) + "\n")
    return tmp_path


@pytest.fixture
def word_lists(tmp_path, monkeypatch):
    """Lists of nltk's form with one abbreviation."""
    folder = tmp_path / "nltk/tokenizers/punkt_tab/english"
    folder.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "ortho_context.tab"):
        (folder / name).write_text("")
    (folder / "abbrev_types.txt").write_text("dr\n")
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))  # for processes
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path / "nltk")])


def test_the_prompt_is_asked_as_it_is(rows):
    (problem,) = load_problems(["ifeval"], hub_mirror=rows)
    (chat,) = load_problems(["ifeval"], hub_mirror=rows, chat=True)
    assert problem.prompt == chat.prompt == ROW["prompt"]
    assert (problem.problem_id, problem.grader) == ("ifeval/7", "ifeval")
    gold = json.loads(problem.gold)
    assert gold["kwargs"] == [{}, {"num_sentences": 2, "relation": "at least"}, {}]


def test_responses_are_checked_by_lm_eval(rows, word_lists):
    pytest.importorskip("langdetect", reason="lm-eval's checks of IFEval need langdetect")
    pytest.importorskip("immutabledict", reason="lm-eval's checks of IFEval need immutabledict")
    (problem,) = load_problems(["ifeval"], hub_mirror=rows)
    texts = {
        "the cat sat on a mat. then it saw dr. smith.": "pass",
        "a cat slept.\n\nit woke up. it left": "pass",
        "the cat went to dr. smith": "fail",  # one sentence, for an abbreviation ends none
        "the cat sat, and slept. it left.": "fail",
        "The cat sat. It left.": "fail",
        "": "unparsed",
    }
    with GraderPool(1) as pool:
        grades = pool.grade([GradeRequest("ifeval", text, problem.gold) for text in texts])
    assert [grade.status for grade in grades] == list(texts.values())
    assert grades[0].answer == ifeval.FOLLOWS
    assert grades[3].answer == "does not follow punctuation:no_comma"


def test_a_gold_with_an_instruction_that_does_not_exist_is_an_error(word_lists):
    pytest.importorskip("langdetect")
    pytest.importorskip("immutabledict")
    gold = json.dumps({"prompt": "", "instruction_id_list": ["os:system"], "kwargs": [{}]})
    with GraderPool(1) as pool:
        (grade,) = pool.grade([GradeRequest("ifeval", "yes", gold)])
    assert grade.status == "error"


@pytest.mark.parametrize(
    ("absent", "words"),
    [
        (
            "langdetect",
            "the package langdetect is not installed: pip install 'shaped-trl[lm-eval]'",
        ),
        (None, "nltk's word lists are not here: python -m nltk.downloader punkt_tab"),
    ],
)
def test_without_what_the_checks_need_it_is_refused_in_one_line(
    absent, words, rows, tmp_path, monkeypatch
):
    found = ifeval.importlib.util.find_spec
    known = {name: object() for name in ifeval._PACKAGES if name != absent}
    monkeypatch.setattr(
        ifeval.importlib.util, "find_spec", lambda name: known.get(name) or found(name)
    )
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    if absent and found(absent):
        pytest.skip("it is installed here")
    assert ifeval.missing() == words
    with pytest.raises(UserError, match="benchmarks: ifeval cannot be graded here"):
        SampleConfig("model", benchmarks="ifeval", hub_mirror=str(rows))
    with pytest.raises(UserError, match="grader='ifeval' cannot be used"):
        ifeval.check_grader()


def test_the_suite_goes_without_it_and_says_so(make_config, rows, monkeypatch, capsys):
    """The mirror of the test has one other set of the suite."""
    monkeypatch.setattr(
        "shaped_eval.sampling.plan.missing", lambda name: "x" if name == "ifeval" else None
    )
    path = rows / "MathArena/aime_2026/default/train.jsonl"
    path.parent.mkdir(parents=True)
    row = {"problem_idx": 1, "problem": "w1", "answer": "1"}
    path.write_text(json.dumps(row) + "\n")
    config = make_config(benchmarks="", suite="modern", hub_mirror=str(rows), n=1, shots=0)
    folder = sample(config, progress=False)
    record = json.loads((folder / "run.json").read_text())
    assert record["benchmarks"] == ["aime26"]
    assert record["left_out"] == [name for name in MODERN if name != "aime26"]
    assert "ifeval cannot be graded here (x)" in capsys.readouterr().err


def test_a_model_samples_it(make_config, rows, monkeypatch):
    monkeypatch.setattr("shaped_eval.benchmarks.registry.missing", lambda name: None)
    config = make_config(benchmarks="ifeval", hub_mirror=str(rows), n=2, limit=4)
    folder = sample(config, progress=False)
    assert len((folder / "samples.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("named", "n"),
    [
        ({"benchmarks": "gsm8k"}, 16),
        ({"benchmarks": "beyondaime"}, 16),
        ({"benchmarks": "aime26"}, 32),
        ({"benchmarks": "math500,cmimc25"}, 32),
        ({"suite": "math2026"}, 32),
        ({"benchmarks": "aime26", "n": 4}, 4),
    ],
)
def test_small_sets_have_32_samples_of_each_problem_by_default(named, n):
    assert SampleConfig("model", **named).n == n
