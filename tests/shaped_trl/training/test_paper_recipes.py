"""The numbers of the paper's and other recipes, and two steps of each.

`scaled_down_options` is the rule of `recipes/paper/README.md`, "Scaled down".
"""

import json
import math
import random
import re
from pathlib import Path

import pytest
import torch
from shaped_eval.benchmarks.registry import BENCHMARKS
from shaped_kernels import PRESETS, RewardShape
from tiny import WORDS, tiny_tokenizer
from transformers import AutoConfig, get_scheduler
from trl import ModelConfig

from shaped_trl import recipes
from shaped_trl.data.budget import budget_steps, parse_tokens
from shaped_trl.data.corpora import CorpusArguments
from shaped_trl.data.mixtures import mixture_entries
from shaped_trl.modeling.architectures import ARCHITECTURES, paper_config, parameter_counts
from shaped_trl.study.reporting import paper
from shaped_trl.training import ShapedConfig
from shaped_trl.training.run import build_trainer
from shaped_trl.training.starting_point import new_model
from shaped_trl.training.throughput import PEAK_FLOPS

PRE = [f"paper/{model}/pretrain" for model in ARCHITECTURES]
MID = [f"paper/{model}/midtrain" for model in ARCHITECTURES]
QWEN = "qwen3-0.6b/midtrain"
DEVICES = 64
QWEN_PARAMETERS = 596_049_920  # Qwen3-0.6B-Base, its tied embedding once


def resolve(name: str, *argv: str) -> tuple[CorpusArguments, ShapedConfig, ModelConfig]:
    options, _ = recipes.Parser("train", [CorpusArguments, ShapedConfig, ModelConfig]).resolve(
        name, argv
    )
    return options


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def mirror(tmp_path_factory) -> Path:
    """The recipes' data on the Hub: texts, some with a prompt, and questions."""
    folder, rng = tmp_path_factory.mktemp("mirror"), random.Random(0)
    for name in [PRE[0], MID[0], QWEN]:
        for source, _ in mixture_entries(resolve(name)[0]):
            rows = [
                {"text": " ".join(rng.choices(WORDS, k=rng.randint(20, 90))), "url": "u"}
                for _ in range(40)
            ]
            if source.dataset_config == "cosmopedia-v2":
                rows = [{"prompt": "w0 w1", **row} for row in rows]
            file = (
                folder / source.dataset_name / (source.dataset_config or "default") / "train.jsonl"
            )
            write_rows(file, rows)
    for benchmark in BENCHMARKS.values():
        row = dict.fromkeys(
            ["question", "problem", "answer", "solution", "unique_id", "id", "subject", "level"],
            "q",
        )
        write_rows(
            folder
            / benchmark.dataset_id
            / (benchmark.config or "default")
            / f"{benchmark.split}.jsonl",
            [row],
        )
    return folder


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer().save_pretrained(folder)
    return folder


def scaled_down_options(name: str, folder: Path, mirror: Path, tokenizer_folder: Path):
    """The options of a recipe, scaled down; Qwen3-0.6B becomes the 1B of the same architecture."""
    model = name.split("/")[1] if name != QWEN else "1b"
    small = {"architecture": model, "scaled_down": True, "vocab_size": len(tiny_tokenizer())}
    tokens = 2 * resolve(name)[1].per_device_train_batch_size * 64
    argv = [
        "--max_length",
        "64",
        "--gradient_accumulation_steps",
        "1",
        "--train_tokens",
        str(tokens),
    ]
    argv += [
        "--hub_mirror",
        str(mirror),
        "--output_dir",
        str(folder / "out"),
        "--logging_steps",
        "1",
    ]
    argv += [
        "--use_cpu",
        "true",
        "--bf16",
        "false",
        "--dataloader_num_workers",
        "0",
        "--disable_tqdm",
        "true",
    ]
    if name in PRE:
        argv += [
            "--from_scratch",
            json.dumps(small),
            "--tokenizer_name_or_path",
            str(tokenizer_folder),
        ]
    else:
        torch.manual_seed(0)
        new_model(small, tiny_tokenizer(), ModelConfig()).save_pretrained(folder / "start")
        tiny_tokenizer().save_pretrained(folder / "start")
        argv += ["--model_name_or_path", str(folder / "start")]
    return resolve(name, *argv)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PRE, *MID, QWEN])
def test_two_steps_scaled_down(name, tmp_path, mirror, tokenizer_folder):
    trainer = build_trainer(*scaled_down_options(name, tmp_path, mirror, tokenizer_folder))
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == trainer.state.global_step == 2
    assert all(math.isfinite(loss) for loss in losses)
    given = ARCHITECTURES.get(name.split("/")[1], ARCHITECTURES["1b"])
    assert trainer.model.config.model_type == given["model_type"]
    assert ("max_violation" in trainer.state.log_history[0]) == ("num_local_experts" in given)
    # the angles that the model turns by, and what it saves
    base = 1e6 if name in MID else 1e4
    frequencies = trainer.model.model.rotary_emb.inv_freq
    head_size = trainer.model.config.head_dim
    expected = base ** (-torch.arange(0, 2 * len(frequencies), 2).double() / head_size)
    torch.testing.assert_close(frequencies.double(), expected, rtol=1e-6, atol=0)
    trainer.save_model()
    saved = AutoConfig.from_pretrained(tmp_path / "out")
    assert saved.rope_parameters["rope_theta"] == base
    assert saved.max_position_embeddings == (16_384 if name in MID else 4096)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["demo/pretrain", "gsm8k/train", "text/train", "shapes/train"])
def test_two_steps_of_the_small_recipes(name, tmp_path):
    """These models run in full, but with local sources and for two steps."""
    rng, data = random.Random(0), tmp_path / "data"
    for split in ("train", "test"):
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(100, 200))) for _ in range(80)]
        write_rows(
            data / "karpathy/tiny_shakespeare/default" / f"{split}.jsonl",
            [{"text": text} for text in texts],
        )
        write_rows(
            data / "openai/gsm8k/main" / f"{split}.jsonl",
            [{"question": t, "answer": t} for t in texts],
        )
    argv = [
        "--hub_mirror",
        str(data),
        "--output_dir",
        str(tmp_path / "out"),
        "--disable_tqdm",
        "true",
    ]
    argv += [
        "--use_cpu",
        "true",
        "--bf16",
        "false",
        "--logging_steps",
        "1",
        "--max_eval_samples",
        "8",
    ]
    argv += ["--train_tokens", "4096"] if name == "shapes/train" else ["--max_steps", "2"]
    if name == "demo/pretrain":  # the study fills in {data}
        argv += ["--dataset_name", "karpathy/tiny_shakespeare", "--dataset_test_split", "test"]
    trainer = build_trainer(*resolve(name, *argv))
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == trainer.state.global_step == 2
    assert all(math.isfinite(loss) for loss in losses)
    own = resolve(name)[0].from_scratch
    assert all(
        getattr(trainer.model.config, key) == value
        for key, value in own.items()
        if key != "model_type"
    )


def schedule(args: ShapedConfig, steps: int):
    """Number of updates so far → learning rate of the next update."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=args.learning_rate)
    scheduler = get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=args.get_warmup_steps(steps),
        num_training_steps=steps,
        scheduler_specific_kwargs=dict(args.lr_scheduler_kwargs),
    )
    return lambda step: args.learning_rate * scheduler.lr_lambdas[0](step)


@pytest.mark.parametrize(
    ("names", "tokens", "length", "steps", "rates"),
    [
        (PRE, "500B", 4096, 29_802, {0: 0.0, 1000: 1.5e-4, 2000: 3e-4, 15_000: 3e-4, 29_801: 3e-4}),
        (MID, "100B", 16_384, 5960, {0: 3e-4, 2980: 1.65e-4, 5959: 3e-5}),
    ],
    ids=["pretrain", "midtrain"],
)
def test_the_papers_numbers(names, tokens, length, steps, rates):
    for name in names:
        corpus, args, _ = resolve(name)
        sequences = args.per_device_train_batch_size * args.gradient_accumulation_steps * DEVICES
        assert sequences * length == 2**24
        assert (corpus.train_tokens, args.max_length) == (tokens, length)
        assert budget_steps(str(corpus.train_tokens), sequences, args.max_length) == steps
        rate = schedule(args, steps)
        for step, expected in rates.items():
            assert rate(step) == pytest.approx(expected, rel=1e-6), (name, step)
        assert (args.weight_decay, args.max_grad_norm) == (0.1, 1.0)
        assert args.optim == "adamw_torch_fused"
        assert args.gradient_checkpointing
        mixture = "num_local_experts" in ARCHITECTURES[name.split("/")[1]]
        assert args.router_bias_rate == (0.001 if mixture else 0)
        assert args.reward_shape().is_cross_entropy
        weights = {source.dataset_config: weight for source, weight in mixture_entries(corpus)}
        assert weights["cosmopedia-v2"] == 0.05


def test_continued_training_warms_up_and_ends_at_a_tenth():
    corpus, args, _ = resolve(QWEN)
    sequences = args.per_device_train_batch_size * args.gradient_accumulation_steps
    steps = budget_steps(str(corpus.train_tokens), sequences, args.max_length)
    rate = schedule(args, steps)
    found = [rate(step) for step in (50, 100, steps - 800, steps - 400, steps - 1)]
    assert steps == 3814
    assert found == pytest.approx([1.65e-5, 3e-5, 3e-5, 1.65e-5, 3e-6], rel=1e-4)
    assert args.reward_shape() == PRESETS["precision"]


@pytest.mark.parametrize("shape", PRESETS)
def test_the_shape_is_an_override(shape):
    for name in [*PRE, *MID, QWEN]:
        assert resolve(name, "--shape", shape)[1].reward_shape() == RewardShape.preset(shape)


@pytest.mark.parametrize("name", [*PRE, *MID, QWEN])
def test_hours_are_six_flops_a_parameter_and_token(name):
    """The hours from the active parameters, the devices and the MFU in the header."""
    header = recipes.contract(name)
    stated = re.search(
        r"(\d+B) tokens; (\d+) H100, (\d+) hours at (\d+)% MFU \(computed\); not run", header
    )
    assert stated
    tokens, devices, hours, mfu = stated.groups()
    corpus, *_ = resolve(name)
    assert tokens == corpus.train_tokens
    parameters = QWEN_PARAMETERS
    if name != QWEN:
        assert int(devices) == DEVICES
        counts = parameter_counts(paper_config(name.split("/")[1]))
        parameters = counts.active + counts.head
    seconds = (
        6 * parameters * parse_tokens(tokens) / (int(devices) * PEAK_FLOPS["H100"] * int(mfu) / 100)
    )
    assert hours == f"{seconds / 3600:.0f}"


# Numbers of the revised paper alone.
REVISED_SCALES = (*paper.SCALES, "20B-A1B")
REVISED_PASS_AT_64_AFTER_RL = {
    paper.CROSS_ENTROPY: {"20B-A1B": 65.55},
    paper.PRECISION: {"20B-A1B": 67.54},
    paper.DIVERSITY: {"20B-A1B": 68.03},
    paper.TAIL_PENALTY: {"20B-A1B": 67.57},
}
REVISED_AVG_AT_128_AFTER_RL = {
    paper.CROSS_ENTROPY: {"4B": 20.49, "10B-A0.5B": 14.37, "20B-A1B": 34.79},
    paper.PRECISION: {"4B": 21.34, "10B-A0.5B": 16.18, "20B-A1B": 36.06},
    paper.DIVERSITY: {"4B": 21.37, "10B-A0.5B": 14.49, "20B-A1B": 32.41},
    paper.TAIL_PENALTY: {"10B-A0.5B": 16.50, "20B-A1B": 36.02},
}


def test_the_page_has_the_numbers_of_the_paper():
    page = (recipes.ROOT / "paper/README.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    shown = {(row[0], row[2]): row[3:] for row in rows if row[0] in ("Pass@64", "Avg@128")}
    tables = [
        ("Pass@64", paper.SCALES, paper.PASS_AT_64_AFTER_RL),
        ("Pass@64", ("20B-A1B",), REVISED_PASS_AT_64_AFTER_RL),
        ("Avg@128", REVISED_SCALES, REVISED_AVG_AT_128_AFTER_RL),
    ]
    shapes = (
        paper.CROSS_ENTROPY,
        paper.PRECISION,
        paper.DIVERSITY,
        paper.TAIL_PENALTY,
        paper.HEAD_REWARD,
    )
    for metric, scales, values in tables:
        for scale in scales:
            numbers = [values.get(shape, {}).get(scale) for shape in shapes]
            assert shown.pop((metric, scale)) == [
                "–" if each is None else f"{each:.2f}" for each in numbers
            ]
    assert not shown
