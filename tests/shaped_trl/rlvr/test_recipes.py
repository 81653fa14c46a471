"""Recipes of RLVR: every one is parsed, the paper's numbers add up, and the small ones run a
step."""

import json
import re
from pathlib import Path

import pytest
import torch
from places import SHARED
from shaped_eval.grading.sandbox.confine import missing_protections
from shaped_eval.records import read_jsonl
from tiny import tiny_model, tiny_tokenizer
from trl import ModelConfig

from shaped_trl import cli, recipes
from shaped_trl.data.prompt_options import PromptArguments
from shaped_trl.data.tokenizers import train_tokenizer
from shaped_trl.modeling.architectures import ARCHITECTURES
from shaped_trl.rlvr import RLVRConfig
from shaped_trl.rlvr.rewards import RewardArguments

# the asynchronous ones are in asynchronous/test_command.py
NAMES = [name for name in recipes.names() if "/rlvr" in name and not name.endswith("/rlvr-async")]
STRICT = [f"paper/{model}/rlvr" for model in ARCHITECTURES]
DAPO = [f"paper/{model}/rlvr-dapo" for model in ARCHITECTURES]
DEVICES = 64
OPTIONS = [PromptArguments, RewardArguments, RLVRConfig, ModelConfig]
HUB = SHARED / "hub"
real_data = pytest.mark.skipif(
    not SHARED.is_dir(), reason="the mirror of real data, ../shared, is absent"
)
needs_sandbox = pytest.mark.skipif(
    bool(missing_protections()), reason=f"no sandbox: {missing_protections()}"
)


def settings(name: str) -> dict:
    """What the file says, without what concerns the machine alone."""
    return {key: value for key, value in recipes.load(recipes.find(name)).items() if key != "env"}


def parsed(
    name: str, *argv: str
) -> tuple[PromptArguments, RewardArguments, RLVRConfig, ModelConfig]:
    return recipes.Parser("rlvr", OPTIONS).resolve(name, argv)[0]


def test_there_are_recipes():
    assert set(STRICT + DAPO) < set(NAMES)
    assert {"demo/rlvr", "gsm8k/rlvr", "reasoning_gym/rlvr", "smoke/rlvr-mbppplus"} < set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_parsed(name, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0")  # put back afterwards
    assert not recipes.contract(name).endswith(":")
    assert "SMOKE TEST" in recipes.contract(name) or not name.startswith("smoke/")
    here = torch.accelerator.is_available() or not settings(name).get("bf16")
    flags = [] if here else ["--bf16", "false"]  # transformers refuses it on a CPU
    _, _, args, _ = parsed(name, "--output_dir", str(tmp_path), *flags)
    period = args.steps_per_generation / args.gradient_accumulation_steps
    header = recipes.find(name).read_text().partition("\noutput_dir:")[0].replace("\n# ", " ")
    if args.strictly_on_policy:
        assert period == 1
        assert "trictly on-policy" in header or name.startswith("smoke/")
    else:
        assert re.search(r"clip-higher acts|epsilon_high act\b", header)
        assert args.logging_steps % period == 0


@pytest.mark.parametrize("name", STRICT + DAPO)
def test_the_papers_numbers(name):
    given = settings(name)
    completions = (
        given["per_device_train_batch_size"] * given["gradient_accumulation_steps"] * DEVICES
    )
    assert (completions, given["num_generations"]) == (128 * 16, 16)
    assert (given["max_steps"], given["temperature"]) == (1000, 1.0)
    assert (given["learning_rate"], given["lr_scheduler_type"]) == (1e-6, "constant")
    assert given["completion_length_schedule"] == {0: 8192, 700: 16_384}
    assert (given["epsilon"], given["epsilon_high"], given["beta"]) == (0.2, 0.28, 0.0)
    assert given["decontaminate"] == ["math500", "aime24", "aime25", "amc23"]
    assert (given["use_vllm"], given["vllm_mode"], given["dynamic_sampling"]) == (
        True,
        "colocate",
        True,
    )
    longest = given["max_prompt_length"] + 16_384
    assert (
        given["vllm_max_model_length"]
        == given["model_init_kwargs"]["max_position_embeddings"]
        == longest
    )
    # every process holds whole groups, and a change of length begins with a generation batch
    steps_per_generation = given.get("steps_per_generation", given["gradient_accumulation_steps"])
    assert (
        given["per_device_train_batch_size"] * steps_per_generation % given["num_generations"] == 0
    )
    period = steps_per_generation // given["gradient_accumulation_steps"]
    assert period == (4 if name in DAPO else 1)
    assert given["save_steps"] % period == 700 % period == 0


def test_most_tokens_are_those_of_the_readme():
    tokens = 2048 * (700 * 8192 + 300 * 16_384)
    text = (recipes.ROOT / "paper" / "README.md").read_text()
    assert f"At most {tokens / 1e9:.1f}B tokens" in text


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_the_variant_differs_in_what_its_header_says(model):
    strict, dapo = settings(f"paper/{model}/rlvr"), settings(f"paper/{model}/rlvr-dapo")
    changed = {key for key in strict.keys() | dapo.keys() if strict.get(key) != dapo.get(key)}
    assert changed == {"output_dir", "steps_per_generation", "overlong_buffer", "logging_steps"}
    assert settings("paper/1b/rlvr").keys() == strict.keys()
    own = {"output_dir", "model_name_or_path"}
    assert {key for key in strict if strict[key] != settings("paper/1b/rlvr")[key]} <= own


def problem(number: int) -> dict:
    """A row of MATH and one of MBPP in one: the columns that their readers take."""
    return {
        "problem": f"What is w{number}?", "answer": str(number), "subject": "Algebra", "level": 1,
        "unique_id": f"train/{number}.json", "solution": "",
        "task_id": 601 + number, "text": f"Write a function to add w{number}.",
        "code": f"def add{number}(a): return 1",
        "test_list": [f"assert add{number}(1) == 1"], "test_setup_code": "", "challenge_test_list": [],
    }  # fmt: skip


@pytest.fixture(scope="module")
def mirror(tmp_path_factory) -> Path:
    """The real data, and train splits that it lacks."""
    folder = tmp_path_factory.mktemp("mirror")
    for file in HUB.rglob("*.jsonl"):
        link = folder / file.relative_to(HUB)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file)
    for name in ("nlile/hendrycks-MATH-benchmark/default", "google-research-datasets/mbpp/full"):
        file = folder / name / "train.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(problem(number)) + "\n" for number in range(12)))
    return folder


SMALL = [
    *(
        "--per_device_train_batch_size",
        "4",
        "--num_generations",
        "4",
        "--gradient_accumulation_steps",
        "1",
    ),
    *(
        "--steps_per_generation",
        "1",
        "--max_completion_length",
        "8",
        "--max_sampling_rounds",
        "1",
        "--max_steps",
        "1",
    ),
    *(
        "--logging_steps",
        "1",
        "--save_steps",
        "1",
        "--use_cpu",
        "true",
        "--bf16",
        "false",
        "--use_vllm",
        "false",
    ),
    *("--disable_tqdm", "true", "--gradient_checkpointing", "false"),
]


@pytest.mark.slow
@real_data
@pytest.mark.parametrize(
    "name",
    [
        "qwen3-0.6b/rlvr",
        "qwen3-0.6b/rlvr-lora",
        pytest.param("qwen3-0.6b/rlvr-code", marks=needs_sandbox),
        "math/rlvr",
        "reasoning_gym/rlvr",
        pytest.param("smoke/rlvr-mbppplus", marks=needs_sandbox),
    ],
)
def test_a_step_of_the_small_recipes(name, tmp_path, monkeypatch, mirror):
    """Sizes are reduced, and what they evaluate on; all else is the recipe's."""
    given = settings(name)
    if name.startswith("reasoning_gym/"):
        pytest.importorskip("reasoning_gym")
    parsed(name)
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained("model")
    tiny_tokenizer().save_pretrained("model")
    argv = [
        "rlvr",
        "--config",
        name,
        "--model_name_or_path",
        "./model",
        "--hub_mirror",
        str(mirror),
    ]
    argv += [
        "--output_dir",
        "out",
        *(SMALL if not name.startswith("smoke/") else ["--disable_tqdm", "true"]),
    ]
    if "num_heldout" in given:
        argv += ["--num_heldout", "4", "--eval_steps", "1", "--per_device_eval_batch_size", "4"]
    if "max_prompt_length" in given:
        argv += ["--max_prompt_length", "100"]
    assert cli.main(argv) == 0
    rows = list(read_jsonl(tmp_path / "out" / "rl_log.jsonl"))
    assert sum("groups_sampled" in row for row in rows) == (2 if name.startswith("smoke/") else 1)
    assert any("eval_reward" in row for row in rows) or "num_heldout" not in given
    if "decontaminate" in given:
        report = json.loads((tmp_path / "out" / "decontamination" / "report.json").read_text())
        assert list(report["benchmarks"]) == given["decontaminate"]


SCALED_DOWN = [
    *(
        "--per_device_train_batch_size",
        "8",
        "--num_generations",
        "4",
        "--gradient_accumulation_steps",
        "1",
    ),
    *("--max_steps", "8", "--logging_steps", "4", "--save_steps", "4", "--learning_rate", "5e-2"),
    *(
        "--use_cpu",
        "true",
        "--bf16",
        "false",
        "--use_vllm",
        "false",
        "--gradient_checkpointing",
        "false",
    ),
    *("--disable_tqdm", "true"),
]


@pytest.mark.slow
@real_data
@pytest.mark.parametrize(
    "name",
    ["paper/1b/rlvr", DAPO[0], *(pytest.param(name, marks=pytest.mark.slow) for name in DAPO[1:])],
)
def test_clipping_acts_in_the_dapo_recipes_alone(name, tmp_path, monkeypatch, caplog):
    """A tiny model of two answers on rows of DAPO's columns; the recipe's ratio of batches,
    schedule and penalty."""
    monkeypatch.setenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN", "0")  # put back afterwards
    monkeypatch.chdir(tmp_path)
    answers = [rf"\boxed{{{number}}}" for number in range(4)]
    tokenizer = train_tokenizer([" ".join(["Solve", *map(str, range(40)), *answers])], "word", 64)
    tokenizer.save_pretrained("model")
    tiny_model(
        vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=0
    ).save_pretrained("model")
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Solve {i}"}],
            "reward_model": {"ground_truth": str(i % 4)},
        }
        for i in range(32)
    ]
    Path("dapo.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    is_dapo = name in DAPO
    argv = [
        "rlvr",
        "--config",
        name,
        "--model_name_or_path",
        "./model",
        "--dataset_name",
        "dapo.jsonl",
        *SCALED_DOWN,
    ]
    argv += [
        "--completion_length_schedule",
        "{0: 6, 4: 9}",
        "--hub_mirror",
        str(HUB),
        "--output_dir",
        "out",
    ]
    argv += ["--steps_per_generation", "4", "--overlong_buffer", "3"] if is_dapo else []
    assert cli.main(argv) == 0
    logged = [row for row in read_jsonl(tmp_path / "out" / "rl_log.jsonl") if "clip_ratio" in row]
    assert (max(row["clip_ratio"] for row in logged) > 0) == is_dapo
    assert ("epsilon_high never act" in caplog.text) == (not is_dapo)
    assert [row["completion_length_max"] for row in logged] == [6, 9]
    if is_dapo:
        assert min(row["rewards/overlong/mean"] for row in logged) < 0
