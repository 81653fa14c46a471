"""Grader of the controlled task `shaped_eval.benchmarks.running_sums`."""

from __future__ import annotations

from shaped_eval.records import Status

ANSWER = "answer"


def grade(completion: str, gold: str) -> tuple[Status, str | None]:
    """Grade what follows the last ``answer``, which must be as many numbers as `gold` has.

    Returns:
        "pass" or "fail", and the numbers joined by spaces; or "unparsed" and None if something else
        follows.
    """
    words = completion.split()
    if ANSWER not in words:
        return "unparsed", None
    answer = words[len(words) - words[::-1].index(ANSWER) :]
    if len(answer) != len(gold.split()) or not all(
        word.isascii() and word.isdigit() for word in answer
    ):
        return "unparsed", None
    canonical = " ".join(answer)
    return ("pass" if canonical == gold else "fail"), canonical
