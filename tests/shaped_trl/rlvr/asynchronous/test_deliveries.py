"""What the trainer takes from the queue, what it drops, and what it says of a failed process."""

import pickle
import queue
from types import SimpleNamespace

import numpy as np
import pytest
from rlvr_async import async_trainer, save_model, without_vllm_here
from shaped_eval.errors import UserError
from trl.experimental.async_grpo import async_rollout_worker
from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

from shaped_trl.rlvr.asynchronous.deliveries import Deliveries
from shaped_trl.rlvr.asynchronous.reports import Delivery, Report
from shaped_trl.rlvr.asynchronous.worker import RolloutsFailed, RolloutWorker
from shaped_trl.rlvr.groups import Outcome
from shaped_trl.rlvr.guard import guard
from shaped_trl.rlvr.ledger import Ledger
from shaped_trl.rlvr.lengths import LengthSchedule
from shaped_trl.rlvr.prompt_stream import PromptStream
from shaped_trl.rlvr.rewards import RewardArguments, reward_functions
from shaped_trl.rlvr.signals import NoLearningSignal

G = 4


def report(group_id: int, row: int, kept: bool = True, **changes) -> Report:
    outcome = Outcome.INFORMATIVE if kept else Outcome.ALL_WRONG
    ledger = Ledger(rounds=1, completions=G, completions_right=2 * kept, rollout_tokens=8)
    ledger.add_groups([outcome])
    fields = {"cursor": (0, group_id + 1, group_id + 1), "unfinished": [], "error": None}
    return Report(group_id, row, outcome, kept, ledger, **fields | changes)


def completion(group_id: int, version: int = 1, length: int = 3, first=None) -> Delivery:
    return Delivery(
        prompt="p",
        completion="c",
        input_ids=np.ones(length, dtype=np.int64),
        completion_mask=np.ones(length, dtype=np.int64),
        old_log_probs=np.zeros(length),
        advantage=1.0,
        model_version=version,
        group_id=group_id,
        metrics={},
        report=first,
    )


def deliveries(items, max_staleness: int = 2, version: int = 1, budget: int | None = None):
    source = queue.Queue()
    for item in items:
        source.put(item)
    now, noted = SimpleNamespace(version=version), []
    one = Deliveries(
        source,
        PromptStream(9, seed=0, shuffle=False),
        lambda: now.version,
        max_staleness,
        lambda: budget,
        noted.append,
        lambda: noted.append("stale"),
    )
    return one, now, noted


def everything(one: Deliveries) -> list:
    found = []
    while True:
        try:
            found.append(one.get(timeout=0.01))
        except queue.Empty:
            return found


def test_a_discarded_group_is_noted_and_not_delivered():
    items = [completion(0, first=report(0, 0, kept=False)), completion(1, first=report(1, 1))]
    one, _, noted = deliveries([*items, completion(1)])
    assert [sample.group_id for sample in everything(one)] == [1, 1]
    assert [each.kept for each in noted] == [False, True]
    assert one.prompts()["open"] == [1]  # nothing of it was trained on yet
    one.trained(1)
    assert one.prompts()["open"] == []


@pytest.mark.parametrize(("version", "delivered"), [(1, True), (2, True), (3, False), (9, False)])
def test_a_completion_that_would_be_trained_on_too_late_is_dropped(version, delivered):
    """Weights may change once more before a batch that is taken now is trained on."""
    one, _, noted = deliveries([completion(0, first=report(0, 0))], version=version)
    assert bool(everything(one)) == delivered == ("stale" not in noted)
    assert one.prompts()["open"] == ([0] if delivered else [])


def test_a_sample_beyond_the_token_budget_is_dropped(caplog):
    first = completion(0, length=5, first=report(0, 0))
    items = [first, completion(0, length=4), completion(0, length=5)]
    one, _, noted = deliveries(items, budget=4)
    assert [len(sample.input_ids) for sample in everything(one)] == [4]
    assert len(noted) == 1
    (said,) = caplog.messages
    assert "token_budget=4" in said


def test_the_stream_follows_that_of_the_rollout_process():
    there = PromptStream(9, seed=0, shuffle=False)
    rows = there.draw(4)
    there.report(rows[1], Outcome.INFORMATIVE, 2, 2)
    first = report(1, rows[1], cursor=there.cursor(), unfinished=there.unfinished())
    one, _, _ = deliveries([completion(1, first=first)])
    everything(one)
    state = one.prompts()
    assert (state["epoch"], state["position"], state["drawn"]) == (0, 4, 4)
    assert sorted(state["open"]) == [0, 1, 2, 3]
    again = PromptStream(9, seed=0, shuffle=False)
    again.load_state_dict(state)
    assert sorted(again.draw(4)) == [0, 1, 2, 3]
    assert again.draw(2) == [4, 5]


def test_a_plain_completion_has_no_report():
    plain = {name: getattr(completion(3), name) for name in RolloutSample.__slots__}
    one, _, noted = deliveries([RolloutSample(**plain)])
    assert len(everything(one)) == 1
    assert noted == []


def test_reward_functions_are_sent_to_the_process_that_grades():
    lengths = LengthSchedule((0, 4), (8, 16))
    arguments = RewardArguments(format_pattern="a.*", overlong_buffer=2, reward_workers=1)
    functions = guard(reward_functions(arguments, "math", lengths))
    there = pickle.loads(pickle.dumps(functions))
    columns = {
        "prompts": ["p"] * 2,
        "completions": [r"a \boxed{7}", r"b \boxed{8}"],
        "completion_ids": [[1] * 7, [1] * 3],
        "gold": ["7", "7"],
        "trainer_state": SimpleNamespace(global_step=0),
        "log_extra": lambda name, values: None,
    }
    assert [function.__name__ for function in there] == ["accuracy", "format", "overlong"]
    assert [function(**columns) for function in there] == [[1, 0], [1, 0], [-0.5, 0]]
    assert there[0].rewards == [1, 0]


@pytest.fixture
def worker():
    without_vllm_here()
    return RolloutWorker("http://127.0.0.1:9", queue_maxsize=4)


def test_a_trainer_without_vllm_is_one_line(monkeypatch):
    monkeypatch.setattr(async_rollout_worker, "is_vllm_available", lambda *args: False)
    with pytest.raises(UserError, match="asynchronous: true needs vLLM in the trainer's env"):
        RolloutWorker("http://127.0.0.1:9", queue_maxsize=4)


def test_the_exception_of_the_rollout_process_is_the_cause(worker):
    worker._exception_info_queue.put(("UserError", "the reply is wrong", "…"))
    worker._failed_event.set()
    with pytest.raises(RolloutsFailed, match="process failed: the reply is wrong; the same comm"):
        worker.check_health(1.0)


@pytest.mark.parametrize(
    ("code", "words"), [(-9, "was killed by SIGKILL"), (3, "ended with exit code 3")]
)
def test_a_process_that_has_ended_is_the_cause(worker, code, words):
    worker._process = SimpleNamespace(is_alive=lambda: False, exitcode=code)
    with pytest.raises(RolloutsFailed, match=f"the rollout process {words}; the same command"):
        worker.check_health(1.0)
    worker._process = None


def test_a_server_that_is_gone_is_the_cause(worker):
    with pytest.raises(RolloutsFailed, match=r"server at http://127.0.0.1:9 does not answer any"):
        worker.check_health(1.0)


def test_groups_without_a_signal_stop_the_run(tmp_path):
    save_model(tmp_path / "model")
    options = {"on_no_signal": "stop", "no_signal_patience": 3}
    one = async_trainer(tmp_path, "http://127.0.0.1:9", **options)
    assert one.args.steps_groups == 2  # a "batch" of the detector
    one._note(report(0, 0, kept=True))
    for group in range(1, 7):
        one._note(report(group, group, kept=False))
    with pytest.raises(NoLearningSignal, match="stopped at step 0, no learning signal: all answ"):
        one._note(report(7, 7, kept=False))
    assert one.ledger.groups_sampled == 8
    assert one.counts()["groups_informative"] == 1
    assert "rounds" not in one.counts()
