"""Arithmetic of reasoning-gym as a task of studies: what texts say, what is held out, how answers
are graded."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

pytest.importorskip("reasoning_gym", reason="the extra `tasks` is not installed")

from shaped_eval.benchmarks.chain_sum import held_out_questions, totals
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.benchmarks.running_sums import is_held_out
from shaped_eval.errors import UserError
from shaped_eval.grading.graders import counts_votes
from shaped_eval.grading.gym.grader import grade
from shaped_eval.grading.text import exact_match
from shaped_eval.records import read_jsonl

from shaped_trl.data.chain_sum import ChainSum, corpus_rows, write_corpus

ROWS = 3000


def expression(question: str) -> str:
    return question.rpartition(": ")[2].removesuffix(" =")


def test_work_and_answers_are_right_but_for_noise() -> None:
    rows = list(islice(corpus_rows(ChainSum(p_long=0.5, noise=0.1)), ROWS))
    worked, steps, wrong = 0, 0, 0
    for row in rows:
        work, _, answer = row["completion"].partition("Answer:")
        right = [
            eval(" ".join(expression(row["prompt"]).split()[: 2 * n + 3]))
            for n in range(len(totals(expression(row["prompt"]))))
        ]
        assert totals(expression(row["prompt"])) == right
        if work.strip():
            worked += 1
            steps += len(right)
            wrong += sum(
                int(said) != total for said, total in zip(work.split(), right, strict=True)
            )
            assert int(answer) == right[-1]
    # three standard errors each
    assert worked / ROWS == pytest.approx(0.5, abs=0.028)
    assert wrong / steps == pytest.approx(0.1, abs=0.014)


def test_lengths_and_what_is_held_out(tmp_path: Path) -> None:
    write_corpus(tmp_path, train_rows=ROWS, heldout_rows=200, rl_rows=600, long_share=0.1)
    parts = {
        name: list(read_jsonl(tmp_path / f"{name}.jsonl"))
        for name in ("train", "heldout", "rl_prompts")
    }
    terms = Counter(len(expression(row["prompt"]).split()) // 2 + 1 for row in parts["train"])
    assert set(terms) == set(range(3, 9))
    assert (terms[7] + terms[8]) / ROWS == pytest.approx(0.1 / 3, abs=0.01)
    assert {len(expression(row["prompt"]).split()) // 2 + 1 for row in parts["rl_prompts"]} == set(
        range(3, 9)
    )
    assert not any(is_held_out(row["prompt"]) for row in (*parts["train"], *parts["rl_prompts"]))
    assert all(is_held_out(row["prompt"]) for row in parts["heldout"])
    seen = {row["prompt"] for row in parts["train"]}
    # 6 terms and more
    rare = [row for row in parts["rl_prompts"] if len(expression(row["prompt"]).split()) > 9]
    assert len(rare) > 250
    assert not any(row["prompt"] in seen for row in rare)
    write_corpus(
        tmp_path / "other", train_rows=ROWS, heldout_rows=200, rl_rows=600, long_share=0.1, seed=1
    )
    other = [row["prompt"] for row in read_jsonl(tmp_path / "other" / "train.jsonl")]
    assert sum(prompt in seen for prompt in other) < 0.4 * ROWS  # of 3 and 4 terms there are few
    again = tmp_path / "again"
    write_corpus(again, train_rows=ROWS, heldout_rows=200, rl_rows=600, long_share=0.1)
    assert (again / "train.jsonl").read_bytes() == (tmp_path / "train.jsonl").read_bytes()
    row = parts["rl_prompts"][0]
    right = totals(expression(row["prompt"]))[-1]
    assert grade(f" 3 Answer: {right}", row["gold"])[0] == "pass"
    assert grade(f" 3 Answer: {right + 1}", row["gold"])[0] == "fail"


def test_problems_are_held_out_and_graded_by_the_task() -> None:
    problems = load_problems(["chain_sum"])
    assert Counter(problem.meta["terms"] for problem in problems) == dict.fromkeys(range(3, 9), 8)
    assert len({problem.prompt for problem in problems}) == 48
    for problem in problems:
        assert is_held_out(problem.prompt)
        assert grade(f" Answer: {eval(expression(problem.prompt))}", problem.gold)[0] == "pass"
    # neither has worked examples: both stay without
    beside = load_problems(["running_sums", "chain_sum"], shots=2)
    assert beside[48:] == problems
    with pytest.raises(UserError, match="shots=2"):
        load_problems(["chain_sum"], shots=2)
    chat = load_problems(["chain_sum"], limit=1, chat=True)[0]
    assert chat.prompt.startswith(f"{problems[0].prompt}\n")


def test_problems_of_a_seed_have_answers_that_can_be_voted_on(tmp_path: Path) -> None:
    """Their verdicts are those of the task's own grader."""
    write_corpus(tmp_path, train_rows=1, heldout_rows=1, rl_rows=1, problems=48, seed=3)
    problems = load_problems([str(tmp_path / "problems.yaml")])
    assert counts_votes(problems[0].grader)
    by_task = {question: gold for question, gold, _ in held_out_questions(3, 48)}
    for problem in problems:
        right = eval(expression(problem.prompt))
        for answer in (f" 3 {right} Answer: {right}", " 3 44 Answer: 44", " 3 44", " Answer: x"):
            statuses = [
                exact_match.grade(answer, problem.gold)[0],
                grade(answer, by_task[problem.prompt])[0],
            ]
            assert (
                (statuses[0] == "pass") == (statuses[1] == "pass") == answer.endswith(f": {right}")
            )


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"noise": 2}, "noise=2"),
        ({"max_terms": 9}, "max_terms=9"),
        ({"terms": 3}, "^terms: no such option"),
        ({"rl_rows": 0}, "rl_rows=0"),
        ({"problems": 7}, "give a multiple of 6"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        write_corpus(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
