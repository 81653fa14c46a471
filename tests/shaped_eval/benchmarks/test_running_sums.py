"""The controlled task: its closed form, its grader, and the part of prompts that is held out."""

from __future__ import annotations

import itertools
import random

import pytest
from shaped_eval.benchmarks.running_sums import (
    HELD_OUT_PARTS,
    RunningSums,
    answer_of,
    draw_digits,
    is_held_out,
    problems,
    prompt_text,
    running_sums,
)
from shaped_eval.errors import UserError
from shaped_eval.grading.text.running_sums import grade

PI = [3, 1, 4, 1, 5, 9, 2]


def test_example_of_the_docstring():
    assert prompt_text(PI, RunningSums()) == "3 1 4 1 5 9 2 . . . . ="
    assert running_sums(PI, RunningSums()) == [3, 1, 4, 4, 6, 3, 6]
    assert answer_of(PI, RunningSums()) == "6 6 3"


@pytest.mark.parametrize(("streams", "modulus", "length"), [(1, 2, 1), (3, 10, 11), (2, 7, 8)])
def test_closed_form_is_the_step_by_step_sum(streams, modulus, length):
    options = RunningSums(streams=streams, modulus=modulus, min_digits=streams)
    digits = [random.Random(length).randrange(modulus) for _ in range(length)]
    totals, steps = [0] * streams, []
    for index, digit in enumerate(digits):
        totals[index % streams] = (totals[index % streams] + digit) % modulus
        steps.append(totals[index % streams])
    assert running_sums(digits, options) == steps
    assert answer_of(digits, options) == " ".join(map(str, totals))


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        (" work 3 1 w7 4 6 3 6 answer 6 6 3", ("pass", "6 6 3")),
        (" answer 6 6 3", ("pass", "6 6 3")),
        (" answer 6 6 3\n", ("pass", "6 6 3")),
        (" answer 1 1 1 answer 6 6 3", ("pass", "6 6 3")),
        (" answer 6 6 4", ("fail", "6 6 4")),
        (" answer 06 6 3", ("fail", "06 6 3")),
        (" answer 6 6", ("unparsed", None)),
        (" answer 6 6 3 3", ("unparsed", None)),
        (" answer 6 w1 3", ("unparsed", None)),
        (" answer 6 6 ³", ("unparsed", None)),
        (" work 6 6 3", ("unparsed", None)),
        ("", ("unparsed", None)),
    ],
)
def test_grade_reads_the_last_answer_only(completion, verdict):
    assert grade(completion, "6 6 3") == verdict


def test_chance_is_one_in_a_thousand():
    guesses = (" ".join(digits) for digits in itertools.product("0123456789", repeat=3))
    assert sum(grade(f"answer {guess}", "6 6 3")[0] == "pass" for guess in guesses) == 1


def test_problems_are_held_out_distinct_and_of_all_lengths():
    options = RunningSums()
    chosen = problems(options, 48)
    assert (
        len({problem.problem_id for problem in chosen})
        == len({problem.prompt for problem in chosen})
        == 48
    )
    assert all(is_held_out(problem.prompt) for problem in chosen)
    lengths = [problem.meta["digits"] for problem in chosen]
    assert {length: lengths.count(length) for length in lengths} == dict.fromkeys(range(4, 12), 6)
    for problem in chosen:
        digits = [int(word) for word in problem.prompt.split() if word.isdigit()]
        assert problem.prompt == prompt_text(digits, RunningSums())
        assert grade(f"answer {problem.gold}", answer_of(digits, options))[0] == "pass"


def test_problems_depend_on_the_seed_and_nothing_else():
    assert problems() == problems()
    assert problems(count=10) == problems(count=48)[:10]
    other = {problem.prompt for problem in problems(RunningSums(seed=1))}
    assert len(other & {problem.prompt for problem in problems()}) < 5


def test_held_out_share_of_prompts():
    share = (
        sum(
            is_held_out(prompt_text(digits, RunningSums()))
            for digits in itertools.product(range(10), repeat=4)
        )
        / 10_000
    )
    assert share == pytest.approx(1 / HELD_OUT_PARTS, abs=0.01)


@pytest.mark.parametrize("held_out", [False, True])
def test_drawn_digits_belong_to_the_part_asked_for(held_out):
    rng = random.Random(0)
    draws = [draw_digits(rng, 5, RunningSums(), held_out=held_out) for _ in range(200)]
    assert {is_held_out(prompt_text(digits, RunningSums())) for digits in draws} == {held_out}


@pytest.mark.parametrize("count", [0, 649])
def test_a_count_that_the_prompts_cannot_serve_is_refused(count):
    options = RunningSums(modulus=6)
    with pytest.raises(UserError, match=rf"^count={count} must be in \[1, 648\]"):
        problems(options, count)
    assert len(problems(options, 648)) == 648


def test_vocabulary_is_filled_with_fillers():
    options = RunningSums(vocabulary_size=64)
    words = [*options.words(), *options.fillers()]
    assert len(set(words)) == len(words) == 64 - 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"p_long": 1.5}, "p_long=1.5 is not a probability"),
        ({"noise": -0.1}, "noise=-0.1 is not a probability"),
        ({"length_weights": (1, 2)}, "length_weights=.1, 2.: give 5 numbers"),
        ({"length_weights": (1, 1, 1, 1, -1)}, "length_weights=.*none is below 0"),
        ({"length_weights": (0, 0, 0, 0, 0)}, "length_weights=.*one is above 0"),
        ({"modulus": 1}, "modulus=1 is too small: give at least 2"),
        ({"streams": 0}, "streams=0 is too small"),
        ({"streams": 5}, "min_digits=4 is too small: give at least 5"),
        ({"max_digits": 3}, "max_digits=3 is too small: give at least 4"),
        ({"slots": 7}, "slots=7 is too small: give at least 8"),
        ({"vocabulary_size": 17}, "vocabulary_size=17 is too small: give at least 18"),
        ({"zipf_exponent": -1.0}, "zipf_exponent=-1.0 is too small: give at least 0"),
        ({"seed": -1}, "seed=-1 is too small"),
        ({"digits": 4}, "digits: no such option of running_sums; choose from streams, modulus"),
    ],
)
def test_bad_options_are_refused(values, message):
    with pytest.raises(UserError, match=rf"^{message}"):
        RunningSums.of(**values)
