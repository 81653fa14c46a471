"""Few-shot sums: right answers, sums that are held out, and the same rows for the same options."""

from __future__ import annotations

import re
from itertools import islice

import pytest
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.errors import UserError
from shaped_eval.grading.text.aliases import grade
from shaped_eval.records import read_jsonl

from shaped_trl.data.few_shot_sums import FewShotSums, divided, prompt_rows, write_corpus

SUM = re.compile(r"(\d+)\+(\d+)=(\d*)")


def terms_of(prompt: str) -> list[tuple[int, int]]:
    """The unordered sums of a prompt, of which the last one is asked."""
    return [tuple(sorted(map(int, pair[:2]))) for pair in SUM.findall(prompt)]


@pytest.mark.parametrize("held_out", [False, True])
def test_examples_and_golds_are_right_and_held_out_sums_are_only_asked(held_out):
    rows = list(islice(prompt_rows(FewShotSums(shots=3), held_out=held_out), 500))
    train, evaluation = divided(FewShotSums())
    assert (len(train), len(evaluation)) == (34, 11)
    assert not set(train) & set(evaluation)
    asked = set()
    for prompt, gold in rows:
        *shown, (a, b, nothing) = SUM.findall(prompt)
        assert len(shown) == 3
        assert all(int(c) + int(d) == int(total) for c, d, total in shown)
        assert (int(a) + int(b), nothing) == (int(gold), "")
        *examples, last = terms_of(prompt)
        assert set(examples) <= set(train) - {last}
        asked.add(last)
    assert asked == set(evaluation if held_out else train)


def test_files_are_repeatable_by_seed_and_graded_by_their_first_line(tmp_path):
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        write_corpus(tmp_path / name, rl_rows=20, problems=12, seed=seed)
    prompts = {
        name: (tmp_path / name / "rl_prompts.jsonl").read_text() for name in ("one", "again")
    }
    assert prompts["one"] == prompts["again"]
    other = list(read_jsonl(tmp_path / "other" / "rl_prompts.jsonl"))
    assert [row["prompt"] for row in read_jsonl(tmp_path / "one" / "rl_prompts.jsonl")] != [
        row["prompt"] for row in other
    ]
    problems = load_problems([str(tmp_path / "one" / "problems.yaml")])
    assert len(problems) == 12
    assert all(problem.grader == "text" and "\n" in problem.prompt for problem in problems)
    assert grade(f"{problems[0].gold}\n1+", problems[0].gold)[0] == "pass"
    assert grade(f"{problems[0].gold}1\n", problems[0].gold)[0] == "fail"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shots": 17}, "shots=17 is out of range: give 0 to 16"),
        ({"max_term": 3}, "max_term=3 is out of range: give 9 to 999"),
        ({"seed": -1}, "seed=-1 is out of range: give 0 to 9999"),
        ({"rl_rows": 0}, "rl_rows=0"),
        ({"problems": 1.5}, "problems=1.5"),
    ],
)
def test_options_out_of_range_are_named_and_nothing_is_written(options, message, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)):
        write_corpus(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
