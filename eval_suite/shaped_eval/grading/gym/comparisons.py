"""Tasks of reasoning-gym in which an answer is right if it equals a right answer or its value.

Their scorers in version 0.1.25 have been read: they give 1 point exactly to the answers that
`COMPARISONS` accepts, but for `STRICTER`, where they also give it to wrong answers. Such an answer
needs no process of its own. Nothing here evaluates it, searches it with a regular expression, or
keeps any part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation

Comparison = Callable[[str, str], bool]  # of an answer and a right answer

# how far a probability may be from the right one: both are needed, as either alone says little
# where the right one is small or large
MOST_DISTANCE, MOST_RELATIVE_DISTANCE = Decimal("1e-4"), Decimal("1e-2")


def _same(answer: str, right: str) -> bool:
    return answer == right


def _same_letters(answer: str, right: str) -> bool:
    return answer.lower() == right.lower()


def _same_stripped(answer: str, right: str) -> bool:
    return answer.strip() == right.strip()


def _same_stripped_letters(answer: str, right: str) -> bool:
    return answer.strip().lower() == right.strip().lower()


def _same_in_one_line(answer: str, right: str) -> bool:
    return answer.lower().replace("\n", "") == right.lower().replace("\n", "")


def _same_lines(answer: str, right: str) -> bool:
    """Ignores spaces at the ends of lines, unless they make the answer longer than the right one.

    The spaces of the right answer are ignored too.
    """
    lines, right_lines = ([line.rstrip() for line in text.split("\n")] for text in (answer, right))
    return lines == right_lines and len(answer) <= len(right)


def _same_value(answer: str, right: str) -> bool:
    try:
        return Decimal(answer) == Decimal(right)
    except InvalidOperation:
        return False


def _same_value_with_commas(answer: str, right: str) -> bool:
    return _same_value(answer.replace(",", ""), right.replace(",", ""))


def _same_probability(answer: str, right: str) -> bool:
    """Takes a decimal or a fraction, with commas, within the distances above."""
    top, slash, bottom = answer.replace(",", "").partition("/")
    expected = Decimal(right)
    try:
        distance = abs(Decimal(top) / Decimal(bottom if slash else 1) - expected)
        return distance <= min(MOST_DISTANCE, MOST_RELATIVE_DISTANCE * expected)
    except ArithmeticError:  # no number, a division by 0, or nan, which is not comparable
        return False


_SAME = """
    ab acre aiw arc_1d base_conversion basic_arithmetic bf binary_alternation caesar_cipher
    circuit_logic count_bits count_primes course_schedule emoji_mystery gcd largest_island lcm
    leg_counting letter_counting list_functions mahjong_puzzle maze modulo_grid number_filtering
    number_sequence rotate_matrix rotten_oranges self_reference simple_equations simple_geometry
    string_manipulation string_splitting string_synthesis syllogism word_sequence_reversal
"""
LISTS = ("string_insertion", "spiral_matrix", "binary_matrix", "n_queens")
# The own scorer of the first gives a point to every start of the right digits, such as 0, and that
# of the second to every text.
STRICTER: dict[str, Comparison] = {
    "coin_flip": _same_probability,
    "game_of_life_halting": _same_stripped_letters,
}
# compared in every version of the package: their own scorers get no answer
COMPARED_ALWAYS = (*LISTS, *STRICTER)
COMPARISONS: dict[str, Comparison] = {
    **dict.fromkeys(_SAME.split(), _same),
    # their scorers evaluate an answer, but that gives another answer at most part of a point, which
    # does not pass
    **dict.fromkeys(LISTS, _same_stripped),
    "spell_backward": _same_letters,
    **dict.fromkeys(("color_cube_rotation", "family_relationships"), _same_stripped_letters),
    **dict.fromkeys(("dice", "zebra_puzzles"), _same_in_one_line),
    **dict.fromkeys(("futoshiki", "mini_sudoku", "sudoku"), _same_lines),
    **dict.fromkeys(("chain_sum", "products"), _same_value_with_commas),
    "decimal_chain_sum": _same_value,
    **STRICTER,
}
