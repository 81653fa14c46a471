"""Running sums: a controlled task with a closed form, small enough to train on a CPU.

A prompt gives digits and empty slots: ``3 1 4 1 5 9 2 . . . . =``. Digit i belongs to stream i mod
3, and the answer is the sum of each stream modulo 10: ``answer 6 6 3``. A completion may work
first, writing one running sum in each step, or guess at once, which is right in 1 of 1,000 cases.
Only the answer is graded, never the work. All prompts have the same number of slots, so that the
distance between a digit and its step does not depend on the number of digits. Problems that are
longer than those of pre-training are therefore hard, but not hopeless.

A hash of the prompt holds out a fixed part of all prompts. With any options and seeds, a held-out
prompt is never trained on.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from shaped_eval.benchmarks.options import options_of
from shaped_eval.errors import UserError
from shaped_eval.grading.text.running_sums import ANSWER
from shaped_eval.records import Problem

NAME = "running_sums"
EMPTY_SLOT, END_OF_PROMPT, WORK = ".", "=", "work"
SPECIAL_TOKENS = 3  # end, padding and unknown, which a word tokenizer adds to the words
# the options that determine a problem; the benchmark has their defaults
ASKED = ("streams", "modulus", "min_digits", "slots")
HELD_OUT_PARTS = 8  # one prompt in 8 is held out


@dataclass(frozen=True)
class RunningSums:
    """Options of the task and of its corpus. Equal options give the same rows, byte for byte.

    Args:
        streams: number of streams, and of sums in an answer.
        modulus: the sums are modulo this number.
        min_digits: fewest digits of a prompt.
        max_digits: most digits of a pre-training text.
        slots: most digits of a problem and of an RL prompt; all lengths are equally frequent.
        length_weights: relative frequency of each length of the pre-training texts; empty if all
            are equally frequent.
        p_long: share of the texts that work before they answer.
        noise: probability that a step of the work is a filler word instead.
        vocabulary_size: words of the tokenizer, special tokens included.
        zipf_exponent: filler word number r is drawn in proportion to r^−`zipf_exponent`.
        seed: of the corpus.

    Raises:
        UserError: a field is outside its range.
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
                    f"{name}={getattr(self, name)!r} is not a probability: give a number in [0, 1]"
                )
        weights, lengths = self.length_weights, self.max_digits - self.min_digits + 1
        if weights and (len(weights) != lengths or min(weights) < 0 or not sum(weights) > 0):
            raise UserError(
                f"length_weights={weights!r}: give {lengths} numbers, one for each length from "
                f"{self.min_digits} to {self.max_digits}; none is below 0, and one is above 0"
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
        """The options with some values replaced. Raises UserError as `options_of` does."""
        return options_of(cls, NAME, values)

    def words(self) -> list[str]:
        """All words except the fillers: digits and marks."""
        return [*map(str, range(self.modulus)), EMPTY_SLOT, END_OF_PROMPT, WORK, ANSWER]

    def fillers(self) -> list[str]:
        """The filler words, which are the rest of the vocabulary, most frequent first."""
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
    """The running sums: entry i is (d_i + d_{i−streams} + d_{i−2·streams} + …) mod modulus."""
    starts = range(len(digits))
    return [
        sum(digits[i % options.streams : i + 1 : options.streams]) % options.modulus for i in starts
    ]


def answer_of(digits: Sequence[int], options: RunningSums) -> str:
    """The right answer as words: the sum of each stream modulo `modulus`."""
    sums = [
        sum(digits[stream :: options.streams]) % options.modulus
        for stream in range(options.streams)
    ]
    return " ".join(map(str, sums))


def is_held_out(prompt: str) -> bool:
    """Whether a prompt is for evaluation only. It depends on the text alone, not on a seed."""
    return hashlib.blake2s(prompt.encode(), digest_size=8).digest()[0] % HELD_OUT_PARTS == 0


def draw_digits(
    rng: random.Random, length: int, options: RunningSums, *, held_out: bool
) -> list[int]:
    """Uniformly drawn digits whose prompt is held out, or is not, as `held_out` says.

    Draws of the other kind are rejected.
    """
    while True:
        digits = [rng.randrange(options.modulus) for _ in range(length)]
        if is_held_out(prompt_text(digits, options)) == held_out:
            return digits


def problems(options: RunningSums | None = None, count: int = 48) -> list[Problem]:
    """Different held-out problems, with every length from `min_digits` to `slots` equally often.

    The `meta` of a problem holds its number of ``digits``.

    Args:
        options: of the task; None for the defaults.
        count: number of problems. The first ones are the same for every count.

    Raises:
        UserError: `count` comes too close to the number of different prompts, or is below 1.
    """
    options = options or RunningSums()
    lengths = range(options.min_digits, options.slots + 1)
    available = options.modulus**options.min_digits // (2 * HELD_OUT_PARTS)
    if not 1 <= count <= available * len(lengths):
        raise UserError(
            f"count={count} must be in [1, {available * len(lengths)}], because there are not many "
            f"more held-out prompts of {options.min_digits} digits modulo {options.modulus}: "
            "use fewer problems, or raise min_digits"
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
    """An endless stream of different held-out digit strings; the lengths take turns."""
    rng = random.Random(f"{NAME} problems {options.seed}")
    seen: set[tuple[int, ...]] = set()
    index = 0
    while True:
        digits = draw_digits(rng, lengths[index % len(lengths)], options, held_out=True)
        if tuple(digits) not in seen:
            seen.add(tuple(digits))
            index += 1
            yield digits
