"""Procedural tasks of reasoning-gym (extra `tasks`): the task's own score decides, all or nothing.

`gold` is a JSON object, from which the entry is made again:

    task, size, seed, index, config   entry number `index` of ``create_dataset(task, size=size, seed=seed, **config)``
    digest                            of its question (`question_digest`); another one is an error, no wrong verdict

The answer is what follows the last ``Answer:``: the rest of its line, or all the rest where the
task's own answer has several lines. It passes with a score of 1. Partial credit does not count:
almost every group of completions would then differ by it, so that dynamic sampling would keep them
all, and learn from the noise.

Entries are made in processes of their own, confined as generated code is: a configuration comes
from a file. Where a right answer is one that equals the task's own, or has its value
(`gym_comparisons`), that process says which these are, of many entries at once, and answers are
compared here. All other answers are scored in a confined process each, from the entry's making to
the score (`gym_scorer`): nothing that one does is left for the next. Nothing evaluates it either,
so that it cannot write its own score: the scorers of `TASKS` have been read for that, other tasks
are refused, and where the machine has no protections the confinement is not needed.

About one entry in nine of ``intermediate_integration`` has an unevaluated ``Integral`` in its own
answer. That answer fails here; any antiderivative in closed form passes.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
from collections.abc import Callable
from importlib import metadata
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.grading.extract import before_next_question, plain_answer
from shaped_eval.grading.gym.comparisons import COMPARISONS, LISTS
from shaped_eval.grading.sandbox.server import Role, SandboxServer, check_sandbox
from shaped_eval.grading.sandbox.wire import BadReply, Gone
from shaped_eval.records import Status

MARK = "Answer:"
CPU_S, MEMORY_MB, WALL_S = 5, 4096, 60.0  # of one answer
LONGEST_ANSWER = 20_000  # characters
MOST_KEPT = 50_000_000  # characters of right answers that a process keeps
READ_VERSION = "0.1.25"
# of that version: the tasks whose scorers evaluate no answer, or are given none that could be
# evaluated
_TASKS = """
    ab acre advanced_geometry aiw arc_1d arc_agi base_conversion basic_arithmetic bf binary_alternation
    binary_matrix bitwise_arithmetic boxnet caesar_cipher calendar_arithmetic chain_sum circuit_logic codeio
    coin_flip color_cube_rotation complex_arithmetic count_bits count_primes countdown course_schedule cryptarithm
    decimal_arithmetic decimal_chain_sum dice emoji_mystery family_relationships figlet_font
    fraction_simplification futoshiki game_of_life game_of_life_halting gcd graph_color group_anagrams gsm_symbolic
    intermediate_integration jugs kakurasu knight_swap knights_knaves largest_island lcm leg_counting
    letter_counting letter_jumble list_functions mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid
    n_queens needle_haystack number_filtering number_format number_sequence number_sorting palindrome_generation
    palindrome_partitioning path_star polynomial_equations pool_matrix power_function prime_factorization products
    propositional_logic puzzle24 quantum_lock rearc rectangle_count rotate_matrix rotten_oranges rubiks_cube
    rush_hour self_reference sentence_reordering shortest_path simple_equations simple_geometry simple_integration
    sokoban spell_backward spiral_matrix string_insertion string_manipulation string_splitting string_synthesis
    sudoku survo syllogism time_intervals tower_of_hanoi tsumego word_ladder word_sequence_reversal word_sorting
    zebra_puzzles
"""
TASKS = frozenset(_TASKS.split())
# they go through sets of texts, whose order is another in each process
UNREPEATABLE = ("isomorphic_strings", "polynomial_multiplication", "ransom_note")

Verdict = tuple[Status, str | None, str]  # status, answer, and the score in words


class Right:
    """By data set and index of an entry: its question's digest, the task's own answer, and all
    right ones."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, int], tuple[str, str, list[str]]] = {}
        self._characters = 0

    def add(self, data_set: str, made: list[list[Any]]) -> None:
        """Keep these entries, and forget all others where there are too many."""
        if self._characters > MOST_KEPT:
            self.entries.clear()
            self._characters = 0
        for index, digest, own, right in made:
            self.entries[data_set, index] = (digest, own, right)
            self._characters += len(data_set) + len(own) + sum(map(len, right))


_server: SandboxServer | None = None  # of this process, which grades one item at a time
_right = Right()


@functools.cache
def version() -> str:
    """The installed version, without importing it."""
    try:
        return metadata.version("reasoning-gym")
    except metadata.PackageNotFoundError:
        return "absent"


def check_grader() -> None:
    """Can answers be scored here?

    Raises:
        UserError: reasoning-gym is not installed, or is another version than the one that was read
            and this machine cannot confine its scorers.
    """
    check_package()
    if version() != READ_VERSION:
        check_sandbox()


def check_package() -> None:
    """Raise UserError where reasoning-gym is not installed."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UserError(
            "tasks of reasoning_gym need the extra `tasks`: pip install 'shaped-trl[tasks]'"
        )


def task_dataset(task: str, size: int, seed: int, config: dict[str, Any] | None = None) -> Any:
    """The procedural data set of a task: `size` entries, each a dict with ``question`` and
    ``answer``.

    Raises:
        UserError: reasoning-gym is not installed, there is no such task, it cannot be repeated in
            another process, it is not known how it scores, or it refuses its configuration.
    """
    check_package()
    import reasoning_gym

    if task in UNREPEATABLE:
        raise UserError(
            f"dataset_name='reasoning_gym/{task}' makes other entries of the same seed in each process, so that no "
            "grader can make them again: choose another task"
        )
    if task not in TASKS and task in reasoning_gym.factory.DATASETS:
        raise UserError(
            f"dataset_name='reasoning_gym/{task}' is not among the tasks that are known to score an answer without "
            f"evaluating it (of reasoning-gym {READ_VERSION}): choose another task"
        )
    config = config or {}
    if config.keys() & {"seed", "size"}:
        raise UserError(
            f"task_config={config!r}: leave out seed and size, which are options of their own"
        )
    try:
        return reasoning_gym.create_dataset(task, size=size, seed=seed, **config)
    except (ValueError, TypeError, AssertionError, AttributeError) as error:
        given = f", task_config={config!r}" if config else ""
        raise UserError(
            f"dataset_name='reasoning_gym/{task}'{given}: {' '.join(str(error).split())}"
        ) from error


def question_digest(question: str) -> str:
    """What tells whether an entry made again is the same."""
    return hashlib.sha256(question.encode()).hexdigest()[:16]


def gold_of(question: str, **where: Any) -> str:
    """The gold of an entry, from its question and where it is: task, size, seed, config and
    index."""
    return json.dumps({**where, "digest": question_digest(question)})


def extract_answer(completion: str, lines: int = 1) -> str | None:
    """The answer of a completion where the task's own has so many lines; None where there is
    none."""
    _, mark, rest = before_next_question(completion).rpartition(MARK)
    rest = rest.strip()
    if not mark or not rest:
        return None
    return rest if lines > 1 else rest.splitlines()[0].strip()


def graded(completion: str, own: str, judge: Callable[[str], tuple[bool, str]]) -> Verdict:
    """Grade one completion by `judge`, which says of an answer whether it is right, and the score
    in words.

    A pass has the task's own answer, or its own where the task names none: many answers may be
    right.
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


def grade(completion: str, gold: str) -> Verdict:
    """Grade one completion: status, answer, and the score in words."""
    where = _compared(gold)
    if where is None:
        return _ask({"completion": completion, "gold": gold})
    index, digest = where.pop("index"), where.pop("digest", None)
    data_set = json.dumps(where, sort_keys=True)
    if (data_set, index) not in _right.entries:
        reply = _ask({"right": gold})
        if isinstance(reply, tuple):
            return reply
        _right.add(data_set, reply)
    made_digest, own, right = _right.entries[data_set, index]
    if digest not in (None, made_digest):
        return "error", None, "the entry made again has another question"
    compare = COMPARISONS[where["task"]]

    def judge(answer: str) -> tuple[bool, str]:
        is_right = any(compare(answer, text) for text in right)
        return is_right, f"score {is_right:d}"

    return graded(completion, own, judge)


def _compared(gold: str) -> dict[str, Any] | None:
    """Where the entry is of which answers are compared; None where a confined process scores
    them."""
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
    # whose scorers get no answer, in any version
    is_known = version() == READ_VERSION or where["task"] in LISTS
    return where if is_known and where["task"] in COMPARISONS else None


def _ask(message: dict[str, str]) -> Any:
    """What a new confined process replies (`gym_scorer.serve`): a verdict as a tuple, right answers
    as a list."""
    global _server
    if _server is None:
        _server = SandboxServer(_role())
    reply, what = None, "ended"
    try:
        try:
            reply = _server.ask(message, CPU_S, MEMORY_MB, WALL_S)
        except (Gone, TimeoutError, BadReply) as error:
            what = f"{type(error).__name__} {error}"
        ended = _server.reap()
    except OSError:  # it was killed, perhaps by the system for want of memory
        _server.close()
        _server = None
        raise
    if isinstance(reply, list):
        return reply if "right" in message else tuple(reply)
    if ended.out_of_time(CPU_S) or what.startswith("Timeout"):
        return "timeout", None, f"more than {CPU_S} s of CPU time, or {WALL_S:g} s"
    return "error", None, f"the scoring process failed: {what}"


def _role() -> Role:
    return Role(
        "shaped_eval.grading.gym.scorer:serve",
        packages=None,
        preloaded=("reasoning_gym", "shaped_eval.grading.gym.warm_up"),
        needs_sandbox=version() != READ_VERSION,
    )
