"""Running sums: a controlled task with a closed form, small enough to pre-train and reinforce on a
CPU.

A prompt gives digits and empty slots, ``3 1 4 1 5 9 2 . . . . =``. Digit i belongs to stream i mod
3; the answer is the sum of each stream modulo 10: ``answer 6 6 3``. A completion may work first,
one running sum a step, or guess at once, which is right in 1 of 1,000 cases. Only the answer is
graded, never the work. All prompts have the same number of slots, so that a digit is as far from
its step at any length: problems longer than those of pre-training are hard, not hopeless.

A fixed part of all prompts is held out, by a hash of the prompt: whatever the options and seeds, no
held-out problem is ever a prompt to train on.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shaped_eval.benchmarks.options import options_of
from shaped_eval.errors import UserError
from shaped_eval.records import Problem, Status

NAME = "running_sums"
EMPTY_SLOT, END_OF_PROMPT, WORK, ANSWER = ".", "=", "work", "answer"
SPECIAL_TOKENS = 3  # end, padding, unknown: what a word tokenizer adds to the words
# what makes a problem: the benchmark has the defaults
ASKED = ("streams", "modulus", "min_digits", "slots")
HELD_OUT_PARTS = 8  # one prompt in 8 is held out


@dataclass(frozen=True)
class RunningSums:
    """Options of the task and of its corpus. Two with equal options give the same rows, byte for
    byte.

    Pre-training texts have from `min_digits` to `max_digits` digits, each length as often as its
    number in `length_weights` says, or all equally often; problems and RL prompts up to `slots`,
    all equally often. `p_long` is the share of texts that work before they answer, `noise` the
    probability of each step of the work to be a filler word instead. Filler word number r is drawn
    in proportion to r^−`zipf_exponent`.

    Raises:
        UserError: a field outside its range, with the range.
    """

    streams: int = 3
    modulus: int = 10
    min_digits: int = 4
    max_digits: int = 8
    slots: int = 11
    length_weights: tuple[float, ...] = ()
    p_long: float = 0.7
    noise: float = 0.1
    vocabulary_size: int = 512
    zipf_exponent: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for name in ("p_long", "noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"{name}={getattr(self, name)!r} is no probability: give a number in [0, 1]"
                )
        weights, lengths = self.length_weights, self.max_digits - self.min_digits + 1
        if weights and (len(weights) != lengths or min(weights) < 0 or not sum(weights) > 0):
            raise UserError(
                f"length_weights={weights!r}: give {lengths} numbers, one for each length from {self.min_digits} to "
                f"{self.max_digits}, none below 0 and one above it at least"
            )
        least = {
            "streams": 1,
            "modulus": 2,
            "min_digits": self.streams,
            "max_digits": self.min_digits,
        }
        least |= {"slots": self.max_digits, "zipf_exponent": 0, "seed": 0}
        least |= {"vocabulary_size": len(self.words()) + SPECIAL_TOKENS + 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise UserError(
                    f"{name}={getattr(self, name)!r} is too small: give at least {smallest}"
                )

    @classmethod
    def of(cls, **values) -> RunningSums:
        """The options of these values, as a recipe gives them. Raises UserError as `options_of`
        does."""
        return options_of(cls, NAME, values)

    def words(self) -> list[str]:
        """All words but the fillers: digits and marks."""
        return [*map(str, range(self.modulus)), EMPTY_SLOT, END_OF_PROMPT, WORK, ANSWER]

    def fillers(self) -> list[str]:
        """The filler words, most frequent first: what is left of the vocabulary."""
        return [
            f"w{rank}"
            for rank in range(1, self.vocabulary_size - SPECIAL_TOKENS - len(self.words()) + 1)
        ]


def prompt_text(digits: Sequence[int], options: RunningSums) -> str:
    """The prompt of these digits: ``3 1 4 1 . . . . . . . =``."""
    return " ".join(
        [*map(str, digits), *[EMPTY_SLOT] * (options.slots - len(digits)), END_OF_PROMPT]
    )


def running_sums(digits: Sequence[int], options: RunningSums) -> list[int]:
    """The work, in closed form: entry i is (d_i + d_{i−streams} + d_{i−2·streams} + …) mod
    modulus."""
    starts = range(len(digits))
    return [
        sum(digits[i % options.streams : i + 1 : options.streams]) % options.modulus for i in starts
    ]


def answer_of(digits: Sequence[int], options: RunningSums) -> str:
    """The right answer, in closed form: the sum of each stream modulo `modulus`, as words."""
    sums = [
        sum(digits[stream :: options.streams]) % options.modulus
        for stream in range(options.streams)
    ]
    return " ".join(map(str, sums))


def is_held_out(prompt: str) -> bool:
    """Whether this prompt belongs to evaluation. A pure function of its text, the same for every
    seed."""
    return hashlib.blake2s(prompt.encode(), digest_size=8).digest()[0] % HELD_OUT_PARTS == 0


def draw_digits(
    rng: random.Random, length: int, options: RunningSums, *, held_out: bool
) -> list[int]:
    """Uniform digits of the part asked for; rejected draws are drawn again."""
    while True:
        digits = [rng.randrange(options.modulus) for _ in range(length)]
        if is_held_out(prompt_text(digits, options)) == held_out:
            return digits


def problems(options: RunningSums | None = None, count: int = 48) -> list[Problem]:
    """`count` different held-out problems, all lengths from `min_digits` to `slots` equally often.

    The first problems are the same for every `count`. `meta` holds the number of ``digits``.

    Raises:
        UserError: more problems than there are different prompts, by a safe margin.
    """
    options = options or RunningSums()
    lengths = range(options.min_digits, options.slots + 1)
    available = options.modulus**options.min_digits // (2 * HELD_OUT_PARTS)
    if not 1 <= count <= available * len(lengths):
        raise UserError(
            f"count={count} must be in [1, {available * len(lengths)}], the held-out prompts of {options.min_digits} "
            f"digits modulo {options.modulus}: ask for fewer, or raise min_digits"
        )
    chosen = _distinct(options, lengths)
    return [
        Problem(
            f"{NAME}/{index}",
            NAME,
            prompt_text(digits, options),
            answer_of(digits, options),
            NAME,
            {"digits": len(digits)},
        )
        for index, digits in zip(range(count), chosen, strict=False)
    ]


def _distinct(options: RunningSums, lengths: range) -> Iterator[list[int]]:
    """Different held-out digit strings without end, the lengths in turn."""
    rng = random.Random(f"{NAME} problems {options.seed}")
    seen: set[tuple[int, ...]] = set()
    index = 0
    while True:
        digits = draw_digits(rng, lengths[index % len(lengths)], options, held_out=True)
        if tuple(digits) not in seen:
            seen.add(tuple(digits))
            index += 1
            yield digits


def grade(completion: str, gold: str) -> tuple[Status, str | None]:
    """Grade what follows the last ``answer``: it must be as many numbers as `gold` has, and nothing
    more.

    Returns ("pass" or "fail", the numbers joined by spaces), or ("unparsed", None) where they are
    not there.
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
