"""Blind answers: what finds a reward that can be had without the answer, and what it stops."""

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from processes import run_processes
from rlvr_tiny import even_length, rlvr_arguments, rlvr_trainer
from shaped_eval.errors import UserError
from shaped_eval.grading import GRADERS, GraderSpec
from tiny import tiny_model, tiny_tokenizer
from trl import GRPOTrainer
from waiting import processor_limit

from shaped_trl import cli
from shaped_trl.data.prompt_options import PromptArguments
from shaped_trl.data.prompts import rl_prompts
from shaped_trl.rlvr import audit_reward
from shaped_trl.rlvr import run as run_module
from shaped_trl.rlvr.auditing import audit as audit_module
from shaped_trl.rlvr.auditing.audit import audit_before_training
from shaped_trl.rlvr.auditing.blind_answers import (
    FORMULAS,
    blind_answers,
    forms,
    question,
)
from shaped_trl.rlvr.rewards import VerdictReward


def rows(golds: list[str], prompt: str = "Question {i}?") -> Dataset:
    return Dataset.from_dict(
        {"prompt": [prompt.format(i=i) for i in range(len(golds))], "gold": golds}
    )


def found_in(golds: list[str], grader: str = "exact_match", **options):
    return audit_reward(VerdictReward(grader), rows(golds), **options)


def takes_anything(completion: str, gold: str) -> tuple[str, str | None]:
    return ("pass", gold) if completion.strip() else ("unparsed", None)


@pytest.fixture
def lenient(monkeypatch) -> str:
    """A grader that takes every text for the answer."""
    monkeypatch.setitem(GRADERS, "lenient", GraderSpec(f"{__name__}:takes_anything", "lenient/1"))
    return "lenient"


@pytest.fixture(scope="module")
def gym_reward() -> VerdictReward:
    pytest.importorskip("reasoning_gym")
    return VerdictReward("reasoning_gym", num_workers=1)


@pytest.mark.parametrize(
    "task",
    ["coin_flip", "complex_arithmetic", "game_of_life_halting", "number_sorting", "chain_sum"],
)
def test_flaws_of_reasoning_gyms_tasks_are_not_rewarded(task, gym_reward):
    """Their own scorers reward 0 by a tolerance, nan because it is far from nothing, or any text:
    see test_reasoning_gym_soundness."""
    data = rl_prompts(PromptArguments(f"reasoning_gym/{task}", num_prompts=20), seed=0).train
    found = audit_reward(gym_reward, data, prompts=8)
    assert found.refusal() is None
    assert found.golds.passed == 8


def test_the_refusal_names_answer_share_and_remedy():
    golds = ["5"] * 50 + [str(number) for number in range(10, 60)]
    found = found_in(golds, prompts=100)
    assert found.refusal().startswith(
        "audit_reward: the blind answer most frequent gold '5', bare, is rewarded on 50 of 100 prompts (50%), above "
        "audit_threshold=0.3"
    )
    assert "--audit_reward warn" in found.refusal()
    assert "\n" not in found.refusal()
    assert "50%  most frequent gold '5'" in found.table()
    assert found_in(golds, prompts=100, threshold=0.5).refusal() is None  # above it, not at it


def test_few_golds_have_the_majoritys_share_for_a_bar(lenient):
    golds = ["Yes"] * 75 + ["No"] * 25
    found = found_in(golds, prompts=100)
    assert found.refusal() is None
    assert max(one.share for one in found.tried) == found.bar() == 0.75
    assert "2 values, the most frequent is 'yes' on 75%: the bar is 75%" in found.table()
    refusal = found_in(golds, lenient, prompts=100).refusal()
    assert (
        "is rewarded on 100 of 100 prompts (100%), above the most frequent gold's share of 75%"
        in refusal
    )
    # the higher of the two
    assert found_in(["A", "B", "C", "D"] * 25, "choice", prompts=100).bar() == 0.3


def test_golds_are_counted_as_the_grader_tells_them_apart():
    """Six writings of two numbers are two values; the letter of an option is its value, whatever
    its text is."""
    numbers = ["1", "1.0", "1.00", "2", "2.0", "2.00"]
    assert found_in(numbers * 4, "gsm8k").golds.values == 2
    options = found_in(
        [f"(B) word{number}" for number in range(10)] + [f"(C) w{number}" for number in range(6)],
        "choice",
    )
    assert (options.golds.values, options.golds.frequent[0], options.golds.share) == (
        2,
        "B",
        10 / 16,
    )
    assert options.refusal() is None


def test_few_values_in_the_sample_may_be_many_in_all():
    golds = ["0"] * 950 + [str(number) for number in range(1, 51)]
    found = found_in(golds, prompts=20)
    assert found.golds.values > 5
    assert "above audit_threshold=0.3" in found.refusal()


def test_an_answer_that_depends_on_the_prompt_may_pass_by_chance():
    """The last number of the prompt against golds of two values."""
    prompts = [f"Is {i} odd? {i % 2}" for i in range(100)]

    def refused(agree: int) -> bool:
        golds = [str(i % 2 if i < agree else 1 - i % 2) for i in range(100)]
        data = Dataset.from_dict({"prompt": prompts, "gold": golds})
        found = audit_reward(VerdictReward("exact_match"), data, prompts=100)
        assert (
            next(one.passed for one in found.tried if one.answer.name == "its last number") == agree
        )
        return found.refusal() is not None

    assert [refused(agree) for agree in (50, 60, 70, 100)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("prompt", "grader", "expected"),
    [
        ("Put it within \\boxed{}.", None, ["…", r"\boxed{…}"]),
        ("Put it within \\boxed{}.", "gsm8k", ["…", "#### …", r"\boxed{…}"]),
        ("End with #### and the number", None, ["…", "#### …"]),
        ("Write <think></think><answer></answer>", None, ["…", "<answer>…</answer>"]),
        ("End with 'The answer is (X)'.", "choice", ["…", "The answer is (…)."]),
        ("Why?\nAnswer:", "text", ["…", "The answer is ….", "Answer: …"]),
        ("Why?", "reasoning_gym", ["…", "Answer: …"]),
        ("Why?", "code", ["…", "```python\n…\n```"]),
    ],
)
def test_forms_are_the_prompts_and_the_graders(prompt, grader, expected):
    assert forms(prompt, grader) == expected


def test_every_grader_has_a_form_that_it_reads():
    for grader in GRADERS:
        # a response to instructions is read as a whole
        assert len(forms("Why?", grader)) == (1 if grader == "ifeval" else 2), grader


def test_the_set_is_fixed():
    prompts = [
        "Add 3 and -4.5 to 1,000.\nExample: 1 and 1\nOutput: 2\nEnd with a line that starts with Answer:",
        "Or 7?",
    ]
    one, again, other = (blind_answers(prompts, ["0", "1"], ["1", "0"], seed) for seed in (1, 1, 2))
    assert one == again != other
    texts = {answer.name: answer.texts for answer in one}
    for text in ("0", "1", "nan", "True", "[]"):
        assert texts[text] == [text] * 2
    assert texts["nothing"] == ["", ""]
    assert texts["the prompt"] == prompts
    assert texts["its numbers"] == ["3, -4.5, 1,000, 1, 1, 2", "7"]
    assert texts["its last number"] == ["2", "7"]
    assert texts["its example's answer"] == ["2", ""]
    assert texts["its last line"] == ["Output: 2", "Or 7?"]
    assert texts["most frequent gold '1'"] == ["1", "1"]
    assert texts["the most frequent golds, joined"] == ["1, 0"] * 2
    assert texts["another prompt's gold"] == ["1", "0"]
    assert texts["nan for its first line's numbers"] == ["[NaN, NaN, NaN]", "[NaN]"]
    assert texts["n a n"] == ["n a n"] * 2
    assert not [name for name in texts if "formula" in name]
    assert question("Solve it.\nGive \\boxed{}.\n\nSolution:") == "Solve it."


@pytest.mark.parametrize(
    ("prompt", "formulas"),
    [
        ("Compute $\\sum_{k=1}^{9} k$.", ["\\sum_{k=1}^{9} k"]),
        ("Is $a$ at \\(b\\), or $$c$$, or \\[d\n= 2.\\]", ["a", "b", "c", "d = 2"]),
        ("\\(\\(a\\) $x\n$b$ \\[c", ["a", "b"]),
        ("It costs \\$5 and \\$6.", []),
        (f"${'x' * 301}$ and ${'x' * 300}$", ["x" * 300]),
        ("$a$ $b$ $c$ $d$ $e$ $f$", ["a", "b", "c", "d", "f"]),
        ("$ $ and $.$", []),
    ],
)
def test_the_prompts_formulas_are_blind_answers(prompt, formulas):
    found = blind_answers([prompt, "None?"], None, [], seed=0)
    texts = {one.name: one.texts for one in found if "formula" in one.name}
    assert list(dict.fromkeys(own for own, _ in texts.values())) == formulas
    assert {other for _, other in texts.values()} <= {""}
    assert len(texts) <= FORMULAS + 1


def test_a_list_of_nan_is_as_long_as_the_one_to_sort():
    pytest.importorskip("reasoning_gym")
    prompts = PromptArguments("reasoning_gym/number_sorting", num_prompts=5)
    texts = [row["prompt"] for row in rl_prompts(prompts, seed=0).train]
    lists = {one.name: one.texts for one in blind_answers(texts, None, [], seed=0)}
    for text, nan in zip(texts, lists["nan for its first line's numbers"], strict=True):
        numbers = text.partition(" order: ")[2].partition("\n")[0].split(", ")
        assert nan == f"[{', '.join(['NaN'] * len(numbers))}]"


def test_copied_arithmetic_is_found_and_a_copied_sum_is_not_rewarded():
    def audited(formula: str, value: int):
        golds = [str(value * i) for i in range(20)]
        prompts = [f"Compute ${formula} \\cdot {i}$." for i in range(20)]
        data = Dataset.from_dict({"prompt": prompts, "gold": golds})
        return audit_reward(VerdictReward("math", num_workers=1), data, prompts=8)

    refusal = audited("17^9 \\div 17^7", 289).refusal()
    assert "blind answer its formula 1, bare, is rewarded on 8 of 8" in refusal
    assert audited("\\sum_{k=1}^{9} k", 45).refusal() is None


def test_formulas_are_found_in_time_that_grows_with_the_prompt():
    for unit in ("$", "$ ", "\\(", "\\[x", "\\)", "$$x", "\\(x\\("):
        with processor_limit(20):
            blind_answers([unit * (1_000_000 // len(unit))], None, [], seed=0)


def test_a_reward_of_ones_own_is_audited_in_the_prompts_form():
    """Called as TRL calls it, on chats: it takes any tagged answer but an empty one."""

    def tagged(prompts, completions, gold, **columns) -> list[float]:
        assert prompts[0][0]["role"] == "user"
        texts = [completion[0]["content"] for completion in completions]
        return [
            float(text.startswith("<answer>") and text != "<answer></answer>") for text in texts
        ]

    data = Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": f"{i}? In <answer> tags."}] for i in range(20)],
            "gold": list("abcdefghij") * 2,
        }
    )
    found = audit_reward(tagged, data)
    assert "written <answer>…</answer>" in found.refusal()
    assert {one.form for one in found.refused()} == {"<answer>…</answer>"}


def test_a_form_that_the_grader_does_not_read_is_soon_left_out():
    """Running sums are read after the word answer alone; on the others time would be lost."""
    found = found_in([f"{i} {i + 1}" for i in range(20)], "running_sums")
    prompts = {
        form: {one.prompts for one in found.tried if one.form == form} for form in ("…", "answer …")
    }
    assert prompts == {"…": {2}, "answer …": {16, 20}}


def test_an_audit_draws_from_no_generator_of_the_run():
    random.seed(3)
    states = random.getstate(), torch.get_rng_state()
    found_in(["1", "2", "3"])
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


# a constant answer passes on half of them
PROMPTS = rows(["w1"] * 12 + [f"w{i}" for i in range(2, 14)], "w1 w{i}")


def test_the_trainer_audits_before_its_first_step(tmp_path, monkeypatch):
    reward = VerdictReward("exact_match")
    with pytest.raises(UserError, match="most frequent gold 'w1'"):
        rlvr_trainer(rlvr_arguments(tmp_path), reward, PROMPTS).train()
    with pytest.raises(ValueError, match="audit_reward='only' trains nothing"):
        rlvr_trainer(rlvr_arguments(tmp_path, audit_reward="only"), reward, PROMPTS).train()
    calls = []
    monkeypatch.setattr(GRPOTrainer, "train", lambda self, checkpoint: calls.append(checkpoint))
    rlvr_trainer(rlvr_arguments(tmp_path), reward, PROMPTS).train(
        resume_from_checkpoint="checkpoint-5"
    )
    assert calls.pop() == "checkpoint-5"
    monkeypatch.setattr(
        audit_module, "audit_reward", lambda *args, **options: calls.append(options)
    )
    # what it means is not known
    audit_before_training(even_length, PROMPTS, rlvr_arguments(tmp_path))
    audit_before_training(reward, PROMPTS, rlvr_arguments(tmp_path, audit_reward="off"))
    assert calls == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audit_reward": "yes"}, "audit_reward='yes': choose from off, warn, refuse, only"),
        ({"audit_threshold": 30}, "audit_threshold=30 is not a share"),
        ({"audit_prompts": 0}, "audit_prompts=0 must be at least 1"),
    ],
)
def test_options_out_of_range(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        rlvr_arguments(tmp_path, **changes)


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`shaped-trl rlvr` on prompts of which one blind answer solves half; called with more
    options."""
    monkeypatch.chdir(tmp_path)
    PROMPTS.to_json("flawed.jsonl")
    settings = {
        "model_name_or_path": "model", "dataset_name": "flawed.jsonl", "grader": "exact_match", "output_dir": "out",
        "per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 4, "max_sampling_rounds": 1,
        "max_steps": 2, "save_steps": 1, "gradient_checkpointing": False, "use_cpu": True, "bf16": False,
        "disable_tqdm": True, "report_to": "none", "format_pattern": ".*",
    }  # fmt: skip
    (tmp_path / "rl.yaml").write_text(json.dumps(settings))
    return lambda *argv: cli.main(["rlvr", "--config", "rl.yaml", *argv])


def test_only_audits_and_leaves_nothing_behind(command, tmp_path, monkeypatch, capsys):
    """There is no model, and none is asked for."""
    monkeypatch.setattr(run_module, "RLVRTrainer", None)
    assert command("--audit_reward", "only") == 2
    said = capsys.readouterr()
    assert said.err.splitlines()[-1].startswith(
        "shaped-trl: error: audit_reward: the blind answer most frequent gold 'w1', bare, is rewarded on 12 of 24"
    )
    assert "audit of the reward (exact_match)" in said.out
    assert command("--audit_reward", "only", "--audit_threshold", "0.5") == 0
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_is_refused_before_its_model_is_loaded_and_a_resumed_one_is_not(
    command, monkeypatch, capsys
):
    tiny_model().save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "RLVRTrainer", None)
        assert command() == 2
    assert "audit of the reward" in capsys.readouterr().out
    assert command("--audit_reward", "warn") == 0
    said = capsys.readouterr()
    assert said.out.count("audit of the reward") == 1  # not by the command and the trainer
    shutil.rmtree("out/checkpoint-2")  # what a kill after the first step would leave
    Path("out/model.safetensors").unlink()
    assert command() == 0
    said = capsys.readouterr()
    assert "continuing from" in said.out
    assert "audit of the reward" not in said.out


def in_each_process(folder: str) -> tuple[str, int]:
    """What one of several processes hears, and how often it graded."""
    args = rlvr_arguments(folder)
    reward = VerdictReward("exact_match")
    calls = []
    reward.grade = lambda *given, grade=reward.grade: calls.append(1) or grade(*given)
    try:
        audit_before_training(reward, PROMPTS, args)
    except UserError as error:
        return str(error), len(calls)
    return "", len(calls)


@pytest.mark.distributed
@pytest.mark.slow
def test_one_process_decides_and_all_stop(tmp_path):
    (first, graded), (second, idle) = run_processes(in_each_process, 2, tmp_path, str(tmp_path))
    assert first == second
    assert "most frequent gold 'w1'" in first
    assert graded > 0 == idle


@pytest.mark.slow
def test_another_process_takes_the_first_ones_word(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_module, "audit_reward", None)  # it does not audit
    monkeypatch.setattr(
        audit_module, "broadcast_object_list", lambda said: ["the first one's line"]
    )
    args = SimpleNamespace(audit_reward="refuse", process_index=1)
    with pytest.raises(UserError, match="the first one's line"):
        audit_before_training(VerdictReward("exact_match"), PROMPTS, args)
