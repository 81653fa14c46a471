"""What reward functions give to `log_extra`, around which the guard is."""

import asyncio
from collections import defaultdict

import pytest

from shaped_trl.rlvr.guard import guard

PROMPTS = ["a", "bb", "ccc"]


def called(function) -> tuple[list, dict[str, list]]:
    """The rewards, and the columns as TRL collects them: what is given is appended."""
    columns = defaultdict(list)
    (guarded,) = guard(function) or ()
    found = guarded(PROMPTS, lambda name, values: columns[name].extend(values), completions=PROMPTS)
    return asyncio.run(found) if asyncio.iscoroutine(found) else found, dict(columns)


def one_by_one(completions, log_extra, **_):
    for text in completions:
        log_extra("length", [len(text)])
    return [1.0] * len(completions)


async def one_by_one_later(completions, log_extra, **_):
    return one_by_one(completions, log_extra)


@pytest.mark.parametrize("function", [one_by_one, one_by_one_later])
def test_several_calls_make_one_column_as_with_trl(function):
    assert called(function) == ([1.0] * 3, {"length": [1, 2, 3]})


def test_a_column_of_another_length_is_said_and_not_logged(caplog):
    def short(completions, log_extra, **_):
        log_extra("length", [7])
        return [1.0] * len(completions)

    assert called(short) == ([1.0] * 3, {"length": [None] * 3})
    assert "gave 1 values of 'length' to log_extra for 3 completions" in caplog.text


def test_what_a_sample_alone_gives_is_kept_where_another_raises():
    def fragile(completions, log_extra, **_):
        log_extra("length", [len(text) for text in completions])
        if "bb" in completions:
            raise RuntimeError("bb")
        return [1.0] * len(completions)

    assert called(fragile) == ([1.0, None, 1.0], {"length": [1, None, 3]})
