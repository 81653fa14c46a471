"""The asynchronous trainer against a server of a tiny model, which stands in for vLLM's."""

import dataclasses
import json
import math
import pkgutil

import pytest
import torch
from rlvr_async import async_arguments, async_trainer, save_model, without_vllm_here
from rlvr_tiny import even_length, scripted_prompts
from shaped_eval.errors import UserError
from shaped_eval.records import read_jsonl
from tiny import tiny_tokenizer
from tiny_server import TinyServer

from shaped_trl.rlvr.asynchronous import AsyncRLVRTrainer
from shaped_trl.rlvr.asynchronous.agreement import WeightsDiffer, difference
from shaped_trl.rlvr.asynchronous.config import AsyncRLVRConfig
from shaped_trl.rlvr.asynchronous.server import server_command


@pytest.fixture
def server(tmp_path):
    with TinyServer(save_model(tmp_path / "model")) as one:
        yield one


@pytest.mark.slow  # starts a process that imports torch
def test_a_run_trains_on_the_weights_that_it_sends(tmp_path, server):
    one = async_trainer(
        tmp_path,
        server.address,
        max_steps=6,
        weight_sync_steps=2,
        save_strategy="steps",
        save_steps=3,
        completion_length_schedule={0: 3, 3: 6},
    )
    before = [p.detach().clone() for p in one.model.parameters()]
    one.train()
    rows = list(read_jsonl(tmp_path / "rl_log.jsonl"))
    assert [row["step"] for row in rows] == list(range(1, 7))
    assert server.loads == 4  # at the start, and after steps 2, 4 and 6
    assert all(row["logprob_difference/max"] < 1e-4 for row in rows if row["step"] % 2 == 0)
    assert max(row["sample/staleness_max"] for row in rows) <= 3
    assert any((a != b).any() for a, b in zip(before, one.model.parameters(), strict=True))
    # the server ends with the trainer's weights
    for name, parameter in one.model.named_parameters():
        assert torch.equal(parameter, dict(server.model.named_parameters())[name])
    # the ledger counts what was graded, and the reward saw the same
    calls = list(read_jsonl(tmp_path / "calls.jsonl"))
    graded = int(sum(row["groups_sampled"] for row in rows))
    assert graded <= len(calls)
    right = [
        sum(even_length(call["completions"])) / len(call["completions"]) for call in calls[:graded]
    ]
    wanted = sum(row["raw_reward"] * row["groups_sampled"] for row in rows) / graded
    assert sum(right) / graded == pytest.approx(wanted)
    assert sum(row["trained_tokens"] for row in rows) > 0
    # 0 to 2 are steps of the first length, and every length is one of a step with a transfer
    assert {call["step"] for call in calls} <= {0, 2, 4, 6}
    assert all(call["longest"] <= (3 if call["step"] < 3 else 6) for call in calls)
    assert any(call["longest"] > 3 for call in calls)
    state = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())
    saved = state["stateful_callbacks"]["_AsyncRLVRCallback"]
    assert saved["stream"]["drawn"] > len(saved["stream"]["open"]) > 0
    card = one.card_procedure()
    assert "weights sent every 2 optimizer steps and at most 4 versions old" in card
    assert "tokens trained on" in card


def test_the_loss_is_the_clipped_ratio_to_a_stale_policy(tmp_path, server):
    """Against a closed form in float64: r = π/μ, −min(r·A, clip(r)·A), the mean over tokens."""
    one = async_trainer(tmp_path, server.address)
    samples = [
        ([3, 4, 5, 6], 2, 1.5, [0.9, 1.6]),
        ([3, 4, 7, 1], 2, -1.0, [0.3, 1.1]),
        ([8, 9, 1], 2, 0.7, [1.0]),
    ]
    rows, expected, total = [], [], 0
    parameters = [p for p in one.model.parameters() if p.requires_grad]
    logps = []
    for ids, start, _, _ in samples:
        one.model.set_attn_implementation("sdpa")
        logits = one.model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        taken = logits.gather(1, torch.tensor(ids[1:]).unsqueeze(1)).squeeze(1)[start - 1 :]
        logps.append(taken)
        total += len(taken)
    for (ids, start, advantage, ratios), new in zip(samples, logps, strict=True):
        old = new.detach() - torch.tensor(ratios).log()  # what the stale policy μ gave
        r = torch.tensor(ratios, dtype=torch.float64)
        clipped = r.clamp(1 - 0.2, 1 + 0.28)
        value = -torch.minimum(r * advantage, clipped * advantage) / total
        # the gradient: r·A·∇log π, and 0 where the clipped term is smaller
        passes = (r * advantage <= clipped * advantage).double()
        weight = -(passes * r * advantage) / total
        expected.append((value.sum(), (weight.float() * new).sum()))
        rows.append(
            {
                "input_ids": torch.tensor(ids).numpy(),
                "completion_mask": torch.tensor([0] * start + [1] * (len(ids) - start)).numpy(),
                "old_log_probs": torch.cat([torch.zeros(start), old]).numpy(),
                "advantage": advantage,
                "group_id": 0,
                "metrics": {},
            }
        )
    wanted = torch.autograd.grad(sum(gradient for _, gradient in expected), parameters)
    one.model.set_attn_implementation("tree_fa3")
    batch = _collated(one, rows)
    one.current_gradient_accumulation_steps = 1
    loss = one.compute_loss(one.model, batch)
    got = torch.autograd.grad(loss, parameters)
    value = sum(float(value) for value, _ in expected)
    assert float(loss.detach()) == pytest.approx(value, rel=1e-5)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def _collated(trainer, rows):
    from trl.experimental.async_grpo.async_grpo_trainer import DataCollatorForRollout
    from trl.experimental.async_grpo.packing import TreeRow

    row = TreeRow()
    for sample in rows:
        row.add(sample)
    return DataCollatorForRollout(0)([[row]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "other"}, r"serves other, not '.*/model': start it with --model"),
        ({"logprobs_mode": "raw_logprobs"}, "temperature=0.5 needs a server with --logprobs-mode"),
        ({"max_model_len": 6}, "6 tokens of a completion .* do not fit the server's --max-model"),
    ],
)
def test_another_server_is_refused_before_anything_is_sent(tmp_path, server, changes, message):
    for name, value in changes.items():
        setattr(server, name, value)
    one = async_trainer(tmp_path, server.address, temperature=0.5)
    with pytest.raises(UserError, match=message):
        one.train()
    assert server.loads == 0


def test_weights_that_do_not_arrive_stop_the_run(tmp_path, server):
    server.takes_weights = False
    with torch.no_grad():
        for parameter in server.model.parameters():
            parameter.mul_(3.0)
    one = async_trainer(tmp_path, server.address)
    bound = f"max_logprob_difference={one.args.max_logprob_difference:g}: the weights did not"
    with pytest.raises(WeightsDiffer, match=bound):
        one.train()


def test_the_bound_is_tighter_where_both_sides_compute_alike(tmp_path, monkeypatch):
    def bound(**changes):
        return async_arguments(tmp_path, "http://127.0.0.1:1", **changes).max_logprob_difference

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert bound() == 0.001
    assert bound(dtype="bfloat16") == 0.1
    assert bound(max_logprob_difference=0.5) == 0.5
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert bound() == 0.1


def test_the_difference_is_the_mean_and_the_largest():
    assert difference([-1.0, -2.0], [-1.5, -2.25], 0.5) == (0.375, 0.5)
    with pytest.raises(WeightsDiffer):
        difference([-1.0, -2.0], [-1.5, -2.25], 0.3)
    with pytest.raises(WeightsDiffer):
        difference([-1.0], [math.nan], 0.3)


def test_no_server_is_one_line_with_the_command_that_starts_it(tmp_path):
    save_model(tmp_path / "model")
    address = "http://127.0.0.1:9"
    one = async_trainer(tmp_path, address, vllm_server_timeout=0.1)
    with pytest.raises(UserError, match=r"start the server first: VLLM_SERVER_DEV_MODE=1 .*--host"):
        one.train()


def test_the_server_listens_on_this_machine_unless_told(tmp_path):
    args = async_arguments(tmp_path, "http://localhost:8123")
    command = server_command("m", args)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "8123"
    extension = command[command.index("--worker-extension-cls") + 1]
    assert hasattr(pkgutil.resolve_name(extension), "load_folder")
    other = server_command("m", async_arguments(tmp_path, "http://10.0.0.3:8000"))
    assert other[other.index("--host") + 1] == "10.0.0.3"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": -1}, "max_steps=-1 must be at least 1: discarded groups would prolong"),
        ({"max_staleness": 0}, "max_staleness=0 must be at least 1"),
        ({"num_generations": 1}, "num_generations=1 must be at least 2"),
        ({"max_inflight_tasks": 0}, "max_inflight_tasks=0"),
        ({"weight_transfer": "mail"}, "weight_transfer='mail': choose from nccl, folder"),
        ({"max_logprob_difference": 0.0}, "max_logprob_difference=0.0 must be above 0"),
        ({"eval_strategy": "steps", "eval_steps": 1}, "eval_strategy='steps'"),
        ({"vllm_server_base_url": "localhost:8000"}, "is not the address of a server"),
        ({"prompt_weighting": "no"}, "prompt_weighting='no': choose from"),
        ({"retire_all_right": 1, "dynamic_sampling": False}, "needs dynamic_sampling"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        async_arguments(tmp_path, **{"server": "http://127.0.0.1:1"} | changes)


@pytest.mark.parametrize(
    ("model", "rewards", "changes", "message"),
    [
        (torch.nn.Linear(1, 1), even_length, {}, "model=Linear: .* needs the path or the Hub id"),
        ("m", lambda **columns: [], {}, "cannot be sent to the process that grades"),
        ("m", "a/reward-model", {}, "reward_funcs must be functions"),
        ("m", even_length, {"weight_transfer": "nccl"}, "weight_transfer='nccl' needs a GPU"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_model_is_loaded(
    tmp_path, model, rewards, changes, message
):
    without_vllm_here()
    if "weight_transfer" in changes and torch.cuda.is_available():
        pytest.skip("here is a GPU")
    args = async_arguments(tmp_path, "http://127.0.0.1:1", **changes)
    with pytest.raises(UserError, match=message):
        AsyncRLVRTrainer(
            model,
            rewards,
            args,
            train_dataset=scripted_prompts(),
            processing_class=tiny_tokenizer(),
        )


def test_defaults_are_trls_but_for_those_that_are_named(tmp_path):
    from trl.experimental.async_grpo import AsyncGRPOConfig

    ours = AsyncRLVRConfig(str(tmp_path), max_steps=1, use_cpu=True)
    theirs = AsyncGRPOConfig(str(tmp_path), max_steps=1, use_cpu=True, bf16=False)
    names = [option.name for option in dataclasses.fields(theirs)]
    changed = {name for name in names if getattr(ours, name) != getattr(theirs, name)}
    assert changed - {"accelerator_config"} == {"epsilon_high"}
