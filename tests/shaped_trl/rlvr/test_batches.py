"""What dynamic sampling hands to the loss: informative groups, aligned rows, equal shares on every
process."""

import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from processes import run_processes
from rlvr_tiny import KINDS, G, batches, rlvr_arguments, rlvr_trainer, scripted, scripted_prompts
from shaped_eval.records import read_jsonl

from shaped_trl.rlvr.prompt_stream import PromptStream
from shaped_trl.rlvr.signals import NoLearningSignal

PROMPTS = {row["prompt"]: row["kind"] for row in scripted_prompts()}


def check_rows(batch, per_process_groups=2):
    """Rows of a batch, by content: groups of one prompt, rewards and advantages of their own
    completions."""
    assert len(batch["prompt"]) == per_process_groups * G
    groups = [slice(i, i + G) for i in range(0, len(batch["prompt"]), G)]
    for group in groups:
        assert len(set(batch["prompt"][group])) == 1
    for prompt, kind in zip(batch["prompt"], batch["kind"], strict=True):
        assert PROMPTS[prompt] == kind == "mixed"


def check_table(table, rows):
    """The logged table: `rows` are those of all processes in their order."""
    assert table["prompt"] == [prompt for row in rows for prompt in row["prompt"]]
    seen = [f"{p} | {c}" for p, c in zip(table["prompt"], table["completion"], strict=True)]
    assert table["seen"] == seen
    words = [-float(len(completion.split())) for completion in table["completion"]]
    assert table["short"] == words
    total = torch.tensor(table["scripted"]) + torch.tensor(words)
    total = total.view(-1, G)
    expected = (total - total.mean(1, keepdim=True)) / (total.std(1, keepdim=True) + 1e-4)
    torch.testing.assert_close(
        torch.tensor(table["advantage"]), expected.flatten(), rtol=1e-4, atol=1e-4
    )
    got = torch.tensor([advantage for row in rows for advantage in row["advantage"]])
    torch.testing.assert_close(got, torch.tensor(table["advantage"]), rtol=0, atol=0)
    assert [c.split() for row in rows for c in row["completion"]] == [
        c.split() for c in table["completion"]
    ]


def test_the_loss_sees_informative_groups_of_its_own_prompts(tmp_path):
    found = batches(str(tmp_path), KINDS * 3, {"steps_per_generation": 2, "max_steps": 8})
    assert len(found["batches"]) == 4
    for batch in found["batches"]:
        check_rows(batch, per_process_groups=4)
        check_table(batch["table"], [batch])
        assert max(batch["apart"]) < 1e-5  # log-probabilities of these very rows
        assert batch["items"] == batch["tokens"]
    # the prompts are those of the stream, in its order
    stream = PromptStream(len(PROMPTS), seed=42)
    kinds = list(PROMPTS.values())
    drawn = stream.draw(found["stream"]["drawn"])
    used = [list(PROMPTS).index(p) for batch in found["batches"] for p in batch["prompt"][::G]]
    informative = [row for row in drawn if kinds[row] == "mixed"]
    assert Counter(used) - Counter(informative) == Counter()
    assert all(a != b for a, b in pairwise(used))
    rows = list(read_jsonl(tmp_path / "rl_log.jsonl"))
    counted = {
        name: sum(row.get(f"groups_{name}", 0) for row in rows)
        for name in ("sampled", "all_right", "surplus")
    }
    assert counted["sampled"] == len(drawn)
    assert counted["all_right"] == sum(kinds[row] == "right" for row in drawn)
    assert len(used) == len(informative) - counted["surplus"] == 16


# All informative groups of a round are on rank 0, whose share is the first half.
ONE_SIDED = ("mixed", "mixed", "wrong", "right") * 6
# The second round of four finds four where two are missing: two are left over, for the next batch.
LEAVING = ("mixed", "mixed", "wrong", "wrong", "mixed", "mixed", "mixed", "mixed") * 3
ORDERED = {"shuffle_dataset": False, "max_steps": 4}
KEEPING = ORDERED | {"keep_leftover_groups": True}


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes(tmp_path_factory):
    """One start of two processes for all that is seen of them."""
    folder = tmp_path_factory.mktemp("ranks")
    first, second = run_processes(two_processes, 2, folder, str(folder))
    check_one_sided(first["drop"], second["drop"])
    check_one_sided(first["keep"], second["keep"])
    check_leftovers(first["leaving"], second["leaving"])
    assert first["no_signal"] == second["no_signal"]
    assert "stopped at step 3" in first["no_signal"]


def two_processes(folder: str) -> dict:
    return {
        "drop": batches(f"{folder}/drop", ONE_SIDED, ORDERED),
        "keep": batches(f"{folder}/keep", ONE_SIDED, KEEPING),
        "leaving": batches(f"{folder}/leaving", LEAVING, KEEPING | {"learning_rate": 5e-2}),
        "no_signal": no_signal(f"{folder}/no_signal"),
    }


def check_one_sided(*results):
    """Both processes train on equally many of the groups that one of them found."""
    assert results[0]["stream"] == results[1]["stream"]
    prompts = {row["prompt"]: row["kind"] for row in scripted_prompts(ONE_SIDED)}
    for rows in zip(*(result["batches"] for result in results), strict=True):
        assert len({row["items"] for row in rows}) == 1
        assert rows[0]["items"] == sum(row["tokens"] for row in rows)
        for row in rows:
            assert len(row["prompt"]) == 2 * G
            assert all(prompts[prompt] == "mixed" for prompt in row["prompt"])
        check_table(rows[0]["table"], rows)
    # 4 groups a batch, 2 informative in 4: a batch takes two rounds of 4
    assert results[0]["stream"]["drawn"] == 4 * 8
    assert len(results[0]["batches"]) == 4


def check_leftovers(*results):
    """Groups of the batch before bring the log-probabilities of the policy that wrote them."""
    for result in results:
        apart = [batch["apart"] for batch in result["batches"]]
        assert apart[0] is apart[2] is None  # strictly on-policy: TRL takes the ratio for 1
        for rows in (apart[1], apart[3]):
            # of the policy before the step, for each process has one of the two groups
            assert min(rows[:G]) > 1e-3
            assert max(rows[G:]) < 1e-5  # of the present one
    for rows in zip(*(result["batches"] for result in results), strict=True):
        check_table(rows[0]["table"], rows)


@pytest.mark.slow
def test_a_batch_that_cannot_be_filled_trains_on_fewer(tmp_path):
    kinds = ("mixed", *["wrong"] * 23)
    found = batches(
        str(tmp_path), kinds, {"max_sampling_rounds": 2, "max_steps": 6, "on_no_signal": "ignore"}
    )
    rows = list(read_jsonl(tmp_path / "rl_log.jsonl"))
    for batch, row in zip(found["batches"], rows, strict=True):
        informative = [kind == "mixed" for kind in batch["kind"]]
        assert row["rounds"] <= 2
        assert row["groups_filled"] == informative.count(False) / G
        assert all(
            advantage == 0
            for advantage, kept in zip(batch["advantage"], informative, strict=True)
            if not kept
        )
        assert all(
            math.isnan(r) != kept
            for r, kept in zip(batch["table"]["scripted"], informative, strict=True)
        )
        assert batch["items"] == sum(
            t for t, kept in zip(batch["row_tokens"], informative, strict=True) if kept
        )
        assert row["trained_tokens"] == batch["items"]
    # some batches have a group, some none
    assert {row["groups_filled"] for row in rows} == {1.0, 2.0}


def no_signal(folder: str, choice: str = "stop", **changes) -> str:
    """A run whose prompts are all wrong."""
    args = rlvr_arguments(
        folder,
        max_steps=13,
        max_sampling_rounds=2,
        no_signal_patience=3,
        on_no_signal=choice,
        **changes,
    )
    one = rlvr_trainer(args, scripted, scripted_prompts(("wrong",) * 24))
    try:
        one.train()
    except NoLearningSignal as error:
        return f"{error} after {one.state.global_step}"
    return f"went on to {one.state.global_step}"


@pytest.mark.slow
def test_a_stream_without_a_signal_stops_with_the_cause_and_a_checkpoint(tmp_path):
    said = no_signal(str(tmp_path))
    assert "stopped at step 3, no learning signal: most completions are cut off" in said
    assert "3 generation batches: 12 groups" in said
    assert (tmp_path / "checkpoint-3" / "trainer_state.json").is_file()


@pytest.mark.slow
def test_the_user_may_go_on(tmp_path, caplog):
    assert no_signal(str(tmp_path / "warn"), "warn") == "went on to 13"
    assert caplog.text.count("no learning signal") == 4  # every third batch
    caplog.clear()
    assert no_signal(str(tmp_path / "ignore"), "ignore") == "went on to 13"
    assert "no learning signal" not in caplog.text
