"""Procedural tasks of reasoning-gym (extra `tasks`): the task's own score decides, all or nothing.

`gold` is a JSON object, from which the entry is made again:

    task, size, seed, index, config   entry number `index` of
                                      ``create_dataset(task, size=size, seed=seed, **config)``
    digest                            of its question (`question_digest`); a different one is an
                                      error, not a wrong verdict

The answer is the text after the last ``Answer:``: the rest of its line, or all the rest if the
task's own answer has several lines. It passes with a score of 1. Partial credit does not count:
almost every group of completions would then have different rewards, so dynamic sampling would keep
them all, and learn from noise.

Entries are made in processes of their own that are confined as generated code is, because a
configuration comes from a file. For tasks in which a right answer equals the task's own or has its
value (`comparisons`), that process returns the right answers of many entries at once, and answers
are compared here. Every other answer is scored in a confined process of its own, from making the
entry to the score (`scorer`), so that nothing of it remains for the next one. Nothing evaluates the
answer either, so it cannot write its own score: the scorers of `TASKS` have been read for that, and
other tasks are refused. On machines without the protections the confinement is therefore not
required.

Some of the package's scorers reward answers that are wrong. Those answers fail here:
``game_of_life_halting`` and ``coin_flip`` are compared (`comparisons.STRICTER`), ``puzzle24`` takes
only the numbers of its puzzle, and nan is not a number (`scorer`). In ``propositional_logic`` a
copied premise is a right answer, so the task is refused.

About one entry in nine of ``intermediate_integration`` has an unevaluated ``Integral`` in its own
answer. That answer fails here, but any antiderivative in closed form passes.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.grading.base import DIED
from shaped_eval.grading.extract import before_next_question, plain_answer
from shaped_eval.grading.gym.comparisons import COMPARED_ALWAYS, COMPARISONS
from shaped_eval.grading.sandbox.server import Role, SandboxServer, check_sandbox
from shaped_eval.grading.sandbox.wire import BadReply, Gone
from shaped_eval.provenance import installed_version
from shaped_eval.records import Status

MARK = "Answer:"
# limits for one answer
CPU_S = 5
MEMORY_MB = 4096
WALL_S = 60.0
LONGEST_ANSWER = 20_000  # characters
MOST_KEPT = 50_000_000  # characters of right answers that a process keeps
READ_VERSION = "0.1.25"
# the tasks of that version whose scorers evaluate no answer, or are given none that could be
# evaluated
_TASKS = """
    ab acre advanced_geometry aiw arc_1d arc_agi base_conversion basic_arithmetic bf
    binary_alternation binary_matrix bitwise_arithmetic boxnet caesar_cipher calendar_arithmetic
    chain_sum circuit_logic codeio coin_flip color_cube_rotation complex_arithmetic count_bits
    count_primes countdown course_schedule cryptarithm decimal_arithmetic decimal_chain_sum dice
    emoji_mystery family_relationships figlet_font fraction_simplification futoshiki game_of_life
    game_of_life_halting gcd graph_color group_anagrams gsm_symbolic intermediate_integration jugs
    kakurasu knight_swap knights_knaves largest_island lcm leg_counting letter_counting
    letter_jumble list_functions mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid
    n_queens needle_haystack number_filtering number_format number_sequence number_sorting
    palindrome_generation palindrome_partitioning path_star polynomial_equations pool_matrix
    power_function prime_factorization products puzzle24 quantum_lock rearc rectangle_count
    rotate_matrix rotten_oranges rubiks_cube rush_hour self_reference sentence_reordering
    shortest_path simple_equations simple_geometry simple_integration sokoban spell_backward
    spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku
    survo syllogism time_intervals tower_of_hanoi tsumego word_ladder word_sequence_reversal
    word_sorting zebra_puzzles
"""
TASKS = frozenset(_TASKS.split())
# they iterate over sets of texts, whose order differs between processes
UNREPEATABLE = ("isomorphic_strings", "polynomial_multiplication", "ransom_note")
# It asks for any conclusion from its premises, so that a copy of a premise is right.
ANSWERED_BY_ITS_QUESTION = ("propositional_logic",)

GradedAnswer = tuple[Status, str | None, str]  # status, answer, and the score in words


class RightAnswers:
    """Maps data set and index of an entry to its right answers.

    A value has the digest of the entry's question, the task's own answer, and all right answers.
    """

    def __init__(self) -> None:
        self.entries: dict[tuple[str, int], tuple[str, str, list[str]]] = {}
        self._characters = 0

    def add(self, data_set: str, made: list[list[Any]]) -> None:
        """Keep these entries; forget all others first if there are too many."""
        if self._characters > MOST_KEPT:
            self.entries.clear()
            self._characters = 0
        for index, digest, own, right in made:
            self.entries[data_set, index] = (digest, own, right)
            self._characters += len(data_set) + len(own) + sum(map(len, right))


_server: SandboxServer | None = None  # one per process, which grades one item at a time
_right_answers = RightAnswers()


@functools.cache
def version() -> str:
    """The version that is installed, without importing the package."""
    return installed_version("reasoning-gym")


def check_grader() -> None:
    """Check that answers can be scored on this machine.

    Raises:
        UserError: reasoning-gym is not installed, or it is another version than the one that was
            read and this machine cannot confine its scorers.
    """
    check_package()
    if version() != READ_VERSION:
        check_sandbox()


def check_package() -> None:
    """Raise UserError if reasoning-gym is not installed."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError(
            "tasks of reasoning_gym need the extra `tasks`: pip install 'shaped-trl[tasks]'"
        )


def task_dataset(task: str, size: int, seed: int, config: dict[str, Any] | None = None) -> Any:
    """The procedural data set of a task: `size` entries, dicts with ``question`` and ``answer``.

    Raises:
        UserError: reasoning-gym is not installed; the task does not exist, cannot be repeated in
            another process, is answered by its own question, or has a scorer that has not been
            read; or it refuses its configuration.
    """
    check_package()
    import reasoning_gym

    if task in UNREPEATABLE:
        raise UserError(
            f"dataset_name='reasoning_gym/{task}' makes different entries from the same seed in "
            "each process, so no grader can make them again: choose another task"
        )
    if task in ANSWERED_BY_ITS_QUESTION:
        raise UserError(
            f"dataset_name='reasoning_gym/{task}' is answered by a part of its question, so RL "
            "would learn to copy: choose another task"
        )
    if task not in TASKS and task in reasoning_gym.factory.DATASETS:
        raise UserError(
            f"dataset_name='reasoning_gym/{task}' is not among the tasks of reasoning-gym "
            f"{READ_VERSION} that are known to score an answer without evaluating it: choose "
            "another task"
        )
    config = config or {}
    if config.keys() & {"seed", "size"}:
        raise UserError(
            f"task_config={config!r}: leave out seed and size, which are separate options"
        )
    try:
        return reasoning_gym.create_dataset(task, size=size, seed=seed, **config)
    except (ValueError, TypeError, AssertionError, AttributeError) as error:
        given = f", task_config={config!r}" if config else ""
        raise UserError(
            f"dataset_name='reasoning_gym/{task}'{given}: {' '.join(str(error).split())}"
        ) from error


def question_digest(question: str) -> str:
    """A digest that shows whether an entry made again is the same."""
    return hashlib.sha256(question.encode()).hexdigest()[:16]


def gold_of(question: str, **where: Any) -> str:
    """The gold of an entry, from its question and its task, size, seed, config and index."""
    return json.dumps({**where, "digest": question_digest(question)})


def extract_answer(completion: str, lines: int = 1) -> str | None:
    """The answer in a completion, or None.

    It has several lines only if `lines`, the number of lines of the task's own answer, is above 1.
    """
    _, mark, rest = before_next_question(completion).rpartition(MARK)
    rest = rest.strip()
    if not mark or not rest:
        return None
    return rest if lines > 1 else rest.splitlines()[0].strip()


def graded(completion: str, own: str, judge: Callable[[str], tuple[bool, str]]) -> GradedAnswer:
    """Grade one completion by `judge`: whether an answer is right, and its score in words.

    A pass has the task's own answer, or the completion's if the task names none, because many
    answers may be right.
    """
    answer = extract_answer(completion, lines=own.strip().count("\n") + 1)
    if answer is None:
        return "unparsed", None, f"no {MARK}"
    if len(answer) > LONGEST_ANSWER:
        return "fail", plain_answer(answer), "the answer is too long"
    right, reason = judge(answer)
    return (
        ("pass", plain_answer(own or answer), reason)
        if right
        else ("fail", plain_answer(answer), reason)
    )


def grade(completion: str, gold: str) -> GradedAnswer:
    """Grade one completion; return status, answer, and the score in words."""
    where = _compared(gold)
    if where is None:
        return _ask({"completion": completion, "gold": gold})
    index = where.pop("index")
    digest = where.pop("digest", None)
    data_set = json.dumps(where, sort_keys=True)
    if (data_set, index) not in _right_answers.entries:
        reply = _ask({"right": gold})
        if isinstance(reply, tuple):
            return reply
        _right_answers.add(data_set, reply)
    made_digest, own, right = _right_answers.entries[data_set, index]
    if digest not in (None, made_digest):
        return "error", None, "the entry made again has another question"
    compare = COMPARISONS[where["task"]]

    def judge(answer: str) -> tuple[bool, str]:
        is_right = any(compare(answer, text) for text in right)
        return is_right, f"score {is_right:d}"

    return graded(completion, own, judge)


def _compared(gold: str) -> dict[str, Any] | None:
    """The gold's object, if answers to it are compared here; None if they need to be scored."""
    try:
        where = json.loads(gold)
    except (ValueError, RecursionError):
        return None
    if (
        not isinstance(where, dict)
        or type(where.get("index")) is not int
        or not isinstance(where.get("task"), str)
    ):
        return None
    is_known = version() == READ_VERSION or where["task"] in COMPARED_ALWAYS
    return where if is_known and where["task"] in COMPARISONS else None


def _ask(message: dict[str, str]) -> Any:
    """The reply of a new confined process (`scorer.serve`): a graded answer, or right answers.

    A graded answer is a tuple, and right answers are a list.
    """
    global _server
    if _server is None:
        _server = SandboxServer(_role())
    reply = None
    # A message that asks for right answers has no answer that could have ended the process.
    what = "the scoring process has ended" if "right" in message else DIED
    try:
        try:
            reply = _server.ask(message, CPU_S, MEMORY_MB, WALL_S)
        except Gone:
            pass  # the answer has ended the process that graded it
        except (TimeoutError, BadReply) as error:
            what = f"the scoring process failed: {type(error).__name__} {error}"
        ended = _server.reap()
    except OSError:  # it was killed, perhaps by the system because memory ran out
        _server.close()
        _server = None
        raise
    if isinstance(reply, list):
        return reply if "right" in message else tuple(reply)
    if ended.out_of_time(CPU_S) or "Timeout" in what:
        return "timeout", None, f"more than {CPU_S} s of CPU time, or {WALL_S:g} s"
    return "error", None, what


def _role() -> Role:
    return Role(
        "shaped_eval.grading.gym.scorer:serve",
        packages=None,
        preloaded=("reasoning_gym", "shaped_eval.grading.gym.warm_up"),
        needs_sandbox=version() != READ_VERSION,
    )
