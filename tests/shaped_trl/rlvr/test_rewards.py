"""Rewards: the verdicts of evaluation, format, length; and the grader of reasoning-gym tasks."""

import json
import pickle
import random
from functools import partial
from types import SimpleNamespace

import pytest
from places import SHARED
from shaped_eval.errors import UserError
from shaped_eval.grade import grade_answers
from shaped_eval.grading import GRADERS, GradeRequest, GraderPool, GraderSpec
from shaped_eval.grading.base import DIED, Grade
from shaped_eval.grading.gym.grader import (
    UNREPEATABLE,
    extract_answer,
    question_digest,
    task_dataset,
)
from shaped_eval.grading.sandbox.confine import missing_protections
from shaped_eval.records import read_jsonl
from trl.rewards import get_soft_overlong_punishment

from shaped_trl.rlvr import rewards as rewards_module
from shaped_trl.rlvr.rewards import (
    REWARD_OF,
    FormatReward,
    OverlongPenalty,
    RewardArguments,
    VerdictReward,
    reward_functions,
)

real_answers = pytest.mark.skipif(not SHARED.is_dir(), reason="real answers, ../shared, are absent")
needs_sandbox = pytest.mark.skipif(
    bool(missing_protections()), reason=f"no sandbox: {missing_protections()}"
)


def state(step: int = 0) -> SimpleNamespace:
    return SimpleNamespace(global_step=step)


def length_at(schedule: dict[int, int], step: int) -> int:
    return schedule[max(start for start in schedule if start <= step)]


def first_lines(name: str, count: int) -> list[dict]:
    return [
        row for row, _ in zip(read_jsonl(SHARED / "outputs" / name), range(count), strict=False)
    ]


def math_answers() -> list[tuple[str, str, list[str]]]:
    rows = first_lines("out_math_qwen_100x8.jsonl", 40)
    return [(f"math/{row['idx']}", row["gt"], row["code"][:4]) for row in rows]


def gsm8k_answers() -> list[tuple[str, str, list[str]]]:
    rows = first_lines("out_gsm8k_abel_7b.jsonl", 400)
    gold = [row["answer"] for row in read_jsonl(SHARED / "hub/openai/gsm8k/main/test.jsonl")]
    return [
        (f"gsm8k/{row['id']}", gold[row["id"]].rpartition("####")[2].strip(), [row["response"]])
        for row in rows
    ]


def humaneval_answers() -> list[tuple[str, None, list[str]]]:
    texts: dict[str, list[str]] = {}
    for row in first_lines("out_humaneval_gpt-3.5-turbo_x10.jsonl", 150):
        texts.setdefault(row["task_id"], []).append(row["solution"])
    return [(name, None, own[:3]) for name, own in texts.items()]


@pytest.mark.slow
@real_answers
@pytest.mark.parametrize(
    ("benchmark", "grader", "answers"),
    [
        pytest.param("math", "math", math_answers, id="math"),
        pytest.param("gsm8k", "gsm8k", gsm8k_answers, id="gsm8k"),
        pytest.param("humaneval", "code", humaneval_answers, id="code", marks=needs_sandbox),
    ],
)
def test_a_reward_is_the_verdict_of_evaluation(benchmark, grader, answers, tmp_path):
    """The same real answers through the reward and through the evaluation suite, all of them
    compared."""
    problems = answers()
    file = tmp_path / "answers.jsonl"
    rows = [
        {"problem_id": name, "completions": texts, "gold": gold} for name, gold, texts in problems
    ]
    for row in rows:
        if row["gold"] is None:
            del row["gold"]  # the benchmark's own
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = grade_answers(
        file, benchmark, tmp_path / "run", hub_mirror=SHARED / "hub", num_workers=1, progress=False
    )
    verdicts = {
        (v["problem_id"], v["sample_index"]): v["status"]
        for v in read_jsonl(run / "verdicts.jsonl")
    }
    golds = {row["problem_id"]: row["gold"] for row in read_jsonl(run / "problems.jsonl")}
    samples = list(read_jsonl(run / "samples.jsonl"))
    logged: dict[str, list] = {}
    reward = VerdictReward(grader, num_workers=1)
    # TRL gives a chat's completions as messages
    given = [[{"role": "assistant", "content": row["completion"]}] if i % 2 else row["completion"]
             for i, row in enumerate(samples)]  # fmt: skip
    values = reward(
        given, [golds[row["problem_id"]] for row in samples], log_extra=logged.__setitem__
    )
    expected = [verdicts[row["problem_id"], row["sample_index"]] for row in samples]
    assert len(expected) == sum(len(texts) for _, _, texts in problems)
    assert logged == {"verdict": expected}
    assert values == [REWARD_OF.get(status) for status in expected]
    assert {"pass", "fail"} <= set(expected)


def test_only_a_fault_of_the_grader_is_no_reward():
    """An answer that cannot be graded in time, or whose grading ends the worker, does not escape
    its 0."""
    statuses = {
        "a": "pass",
        "b": "fail",
        "c": "unparsed",
        "d": "timeout",
        "e": "error",
        "f": "error",
    }
    reward = VerdictReward("math", num_workers=1)
    reasons = {"e": DIED}
    grade = lambda requests: [Grade(statuses[r.gold], None, reasons.get(r.gold)) for r in requests]  # noqa: E731
    reward._pool = SimpleNamespace(grade=grade)
    assert reward(["x"] * 6, list("abcdef")) == [1.0, 0.0, 0.0, 0.0, 0.0, None]


def test_reasoning_is_dropped_unless_it_is_to_be_kept():
    completion = "<think>Paris</think>"
    assert VerdictReward("text")([completion], ["Paris"]) == [0.0]
    assert VerdictReward("text", keep_reasoning=True)([completion], ["Paris"]) == [1.0]
    assert reward_functions(RewardArguments(keep_reasoning=True), "text", len)[0].keep_reasoning


def test_a_grader_that_cannot_run_ends_the_run_before_it_starts(monkeypatch):
    monkeypatch.setitem(
        GRADERS, "broken", GraderSpec("nowhere:f", "broken/1", check=f"{__name__}:refuse")
    )
    monkeypatch.setattr(rewards_module, "load", lambda path: refuse)
    with pytest.raises(UserError, match="no sandbox here"):
        VerdictReward("broken")
    with pytest.raises(UserError, match=r"grader='maths' does not exist"):
        VerdictReward("maths")
    with pytest.raises(UserError, match="num_workers=0"):
        VerdictReward("math", num_workers=0)


def refuse():
    raise UserError("no sandbox here")


def test_training_processes_share_the_cores(monkeypatch):
    cores = GraderPool().num_workers
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert VerdictReward("math")._pool.num_workers == max(1, cores // 2)
    assert VerdictReward("math", num_workers=3)._pool.num_workers == 3


def test_format_takes_the_whole_completion():
    reward = FormatReward("<think>.*</think>.+")
    texts = ["<think>a\nb</think>\n5", "x<think>a</think>5", "<think>a</think>", "5"]
    assert reward(texts) == [1.0, 0.0, 0.0, 0.0]
    assert reward([[{"role": "assistant", "content": text}] for text in texts]) == [
        1.0,
        0.0,
        0.0,
        0.0,
    ]
    assert FormatReward("a|ab")(["ab"]) == [1.0]
    with pytest.raises(UserError, match=r"format_pattern='\(' is not a regular expression"):
        FormatReward("(")


@pytest.mark.parametrize(("longest", "buffer"), [(100, 20), (100, 1), (100, 100), (37, 13)])
def test_the_overlong_penalty_is_trls(longest, buffer):
    ids = [[0] * count for count in range(longest + 30)]
    ours = OverlongPenalty(partial(length_at, {0: longest}), buffer)(
        ids, completion_ids=ids, trainer_state=state()
    )
    assert ours == get_soft_overlong_punishment(longest, buffer)(ids)
    assert min(ours) == -1.0
    assert max(ours) == 0.0


def test_the_overlong_penalty_follows_the_schedule():
    penalty = OverlongPenalty(partial(length_at, {0: 10, 700: 20}), 5)
    ids = [[0] * count for count in (5, 8, 10, 17, 20)]
    found = {
        step: penalty(ids, completion_ids=ids, trainer_state=state(step)) for step in (699, 700)
    }
    assert found == {699: [0.0, -0.6, -1.0, -1.0, -1.0], 700: [0.0, 0.0, 0.0, -0.4, -1.0]}
    with pytest.raises(UserError, match="overlong_buffer=0 must be at least 1"):
        OverlongPenalty(partial(length_at, {0: 10}), 0)


def test_rewards_come_in_order_and_can_be_pickled():
    asked = RewardArguments(format_pattern="a+", overlong_buffer=4, reward_workers=1)
    functions = reward_functions(asked, "gsm8k", partial(length_at, {0: 8}))
    assert [function.__name__ for function in functions] == ["accuracy", "format", "overlong"]
    assert [f.__name__ for f in reward_functions(RewardArguments(), "gsm8k", length_at)] == [
        "accuracy"
    ]
    columns = {"completion_ids": [[0] * 6, [0] * 2], "gold": ["5", "5"], "trainer_state": state()}
    columns["log_extra"] = lambda name, values: None
    for function in (*functions, *pickle.loads(pickle.dumps(functions))):
        expected = {"accuracy": [1.0, 0.0], "format": [0.0, 1.0], "overlong": [-0.5, 0.0]}[
            function.__name__
        ]
        assert function(completions=["#### 5", "aaa"], prompts=["", ""], **columns) == expected


def gold(task: str, index: int = 0, **changes) -> str:
    return json.dumps(
        {"task": task, "size": 10, "seed": 3, "index": index, "config": None} | changes
    )


def grades(*pairs: tuple[str, str]) -> list[tuple[str, str | None]]:
    with GraderPool(1) as pool:
        found = pool.grade([GradeRequest("reasoning_gym", *pair) for pair in pairs])
    return [(grade.status, grade.answer) for grade in found]


@pytest.mark.parametrize(
    ("text", "lines", "answer"),
    [
        ("I think.\nAnswer: 5\nThat is all", 1, "5"),
        ("Answer: 4. No:\nAnswer:\n 5 \n", 1, "5"),
        ("Answer: 1 2\n3 4\n", 2, "1 2\n3 4"),
        ("Answer: 5\n\nQuestion: another?\nAnswer: 7", 1, "5"),
        ("5", 1, None),
        ("Answer:  \n", 1, None),
    ],
)
def test_the_answer_follows_the_last_mark(text, lines, answer):
    assert extract_answer(text, lines) == answer


def test_reasoning_gym_passes_with_full_marks_only():
    pytest.importorskip("reasoning_gym")
    sums, boards = task_dataset("chain_sum", 10, 3), task_dataset("mini_sudoku", 10, 3)
    own, other = (sums[index]["answer"] for index in (0, 1))
    near = f"{own} or so"  # the task gives it a part of a point
    assert 0 < sums.score_answer(near, sums[0]) < 1
    config = {"min_terms": 2, "max_terms": 2}
    small = task_dataset("chain_sum", 10, 3, config)[7]
    found = grades(
        (f"Answer: {own}", gold("chain_sum")),
        (f"Answer: {other}", gold("chain_sum")),
        (f"Answer: {near}", gold("chain_sum")),
        (own, gold("chain_sum")),
        (f"Answer: {boards[0]['answer']}\n", gold("mini_sudoku")),
        (f"Answer: {boards[1]['answer']}\n", gold("mini_sudoku")),
        (f"Answer: {small['answer']}", gold("chain_sum", 7, config=config)),
        (f"Answer: {own}", gold("chain_sum", digest=question_digest(sums[0]["question"]))),
        (f"Answer: {own}", gold("chain_sum", digest="other")),
    )
    assert [status for status, _ in found] == [
        *("pass", "fail", "fail", "unparsed", "pass", "fail", "pass", "pass", "error"),
    ]
    assert found[0][1] == own


def test_an_answer_that_the_task_cannot_read_is_wrong():
    pytest.importorskip("reasoning_gym")
    rng = random.Random(0)
    noise = "".join(chr(rng.randrange(33, 126)) for _ in range(200))
    tasks = ("countdown", "simple_integration", "rush_hour", "graph_color", "n_queens")
    for status, _ in grades(*((f"Answer: {noise}", gold(task)) for task in tasks)):
        assert status == "fail"


def test_tasks_that_other_processes_make_differently_are_refused():
    pytest.importorskip("reasoning_gym")
    for task in UNREPEATABLE:
        with pytest.raises(UserError, match="choose another task"):
            task_dataset(task, 5, 1)
    for config, message in [
        ({"seed": 3}, "leave out seed"),
        ({"terms": 3}, "terms"),
        ({"min_terms": 0}, "min"),
    ]:
        with pytest.raises(UserError, match=message):
            task_dataset("chain_sum", 5, 1, config)
    with pytest.raises(UserError, match="nope"):
        task_dataset("nope", 5, 1)
