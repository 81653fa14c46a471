"""`use_liger_kernel: true` uses Liger's layer kernels with our loss."""

import os
import subprocess
import sys
import types

import pytest
import transformers.trainer
from shaped_eval.records import read_jsonl
from tiny import text_rows, tiny_model, tiny_tokenizer
from transformers import Qwen3ForCausalLM

from shaped_trl import cli
from shaped_trl.training import ShapedConfig, ShapedTrainer
from shaped_trl.training import config as config_module

# TRL 1.16 recommends the Hub's kernels instead
pytestmark = pytest.mark.filterwarnings(
    "ignore:`use_liger_kernel=True` is deprecated:FutureWarning"
)
LOSSES_OFF = {"fused_linear_cross_entropy": False, "cross_entropy": False}


@pytest.fixture
def liger_installed(monkeypatch):
    """transformers takes Liger for installed, whether it is or not."""
    monkeypatch.setattr(config_module, "is_liger_kernel_available", lambda: True)


def trainer(folder, **changes) -> ShapedTrainer:
    settings = {
        "max_steps": 1,
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "use_cpu": True,
        "bf16": False,
    }
    args = ShapedConfig(str(folder), disable_tqdm=True, **settings | changes)
    return ShapedTrainer(
        tiny_model(), args, train_dataset=text_rows(8), processing_class=tiny_tokenizer()
    )


def apply_fake_liger(model, kernel_config):
    """Replace the forward as Liger's `apply_liger_kernel_to_qwen3` does by default."""
    if (kernel_config or {}).get("fused_linear_cross_entropy", True):
        model.forward = types.MethodType(Qwen3ForCausalLM.forward, model)


def test_liger_is_given_its_layer_kernels_only(tmp_path, liger_installed):
    assert ShapedConfig(str(tmp_path), use_liger_kernel=True).liger_kernel_config == LOSSES_OFF
    one = ShapedConfig(str(tmp_path), use_liger_kernel=True, liger_kernel_config={"swiglu": False})
    assert one.liger_kernel_config == {"swiglu": False} | LOSSES_OFF
    assert ShapedConfig(str(tmp_path)).liger_kernel_config is None


@pytest.mark.parametrize("name", LOSSES_OFF)
def test_ligers_losses_are_refused(tmp_path, liger_installed, name):
    with pytest.raises(ValueError, match=f"liger_kernel_config {name}=True"):
        ShapedConfig(str(tmp_path), use_liger_kernel=True, liger_kernel_config={name: True})


def test_without_liger_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(config_module, "is_liger_kernel_available", lambda: False)
    argv = [
        "train",
        "--config",
        "text/train",
        "--output_dir",
        str(tmp_path),
        "--use_liger_kernel",
        "true",
    ]
    assert cli.main(argv) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert 'pip install "shaped-trl[gpu]"' in error


@pytest.mark.slow
@pytest.mark.parametrize("bf16", [False, True])  # under autocast accelerate wraps the forward twice
def test_training_goes_through_our_forward(tmp_path, monkeypatch, liger_installed, bf16):
    monkeypatch.setattr(transformers.trainer, "apply_liger_kernel", apply_fake_liger)
    one = trainer(tmp_path, use_liger_kernel=True, bf16=bf16, beta=-0.25, logging_steps=1)
    one.train()
    assert "target_prob" in one.state.log_history[0]
    one.train()


def test_a_replaced_forward_stops_the_run_before_its_first_step(
    tmp_path, monkeypatch, liger_installed
):
    monkeypatch.setattr(transformers.trainer, "apply_liger_kernel", apply_fake_liger)
    one = trainer(tmp_path, use_liger_kernel=True)
    one.args.liger_kernel_config = None
    with pytest.raises(RuntimeError, match="'fused_linear_cross_entropy': False"):
        one.train()
    assert one.state.global_step == 0


def test_the_real_fused_cross_entropy_is_noticed(tmp_path):
    pytest.importorskip("liger_kernel", reason="liger-kernel (extra `gpu`) is not installed")
    one = trainer(tmp_path, use_liger_kernel=True)
    one.args.liger_kernel_config = {"rope": False, "rms_norm": False, "swiglu": False}
    with pytest.raises(RuntimeError, match="'fused_linear_cross_entropy': False"):
        one.train()


RECIPE = """\
from_scratch: {model_type: qwen3, hidden_size: 32, intermediate_size: 64,
  num_hidden_layers: 2, num_attention_heads: 2,
  num_key_value_heads: 1, head_dim: 16, max_position_embeddings: 64}
dataset_name: my.jsonl
tokenizer_vocab_size: 400
max_steps: 3
per_device_train_batch_size: 2
max_length: 16
learning_rate: 1.0e-2
logging_steps: 1
gradient_checkpointing: false
use_cpu: true
bf16: false
disable_tqdm: true
"""
# RoPE is the only one of Liger's layer kernels that runs in Triton's interpreter on a CPU
LIGER = "use_liger_kernel: true\nliger_kernel_config: {rms_norm: false, swiglu: false}\n"
RUN_AND_CHECK = """\
import sys
from shaped_trl import cli
argv = ["train", "--config", "liger.yaml", "--shape", "precision", "--output_dir", "liger"]
assert cli.main(argv) == 0
from liger_kernel.transformers.rope import liger_rotary_pos_emb
from transformers.models.qwen3 import modeling_qwen3
assert modeling_qwen3.apply_rotary_pos_emb is liger_rotary_pos_emb
"""


@pytest.mark.slow
def test_a_recipe_with_liger_trains_the_same_loss(tmp_path, monkeypatch):
    """With Liger's real RoPE kernel, the command line logs the losses of a run without Liger."""
    pytest.importorskip("liger_kernel", reason="liger-kernel (extra `gpu`) is not installed")
    monkeypatch.chdir(tmp_path)
    text_rows(16).to_json("my.jsonl")
    (tmp_path / "plain.yaml").write_text(RECIPE)
    (tmp_path / "liger.yaml").write_text(RECIPE + LIGER)
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN_AND_CHECK]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert (
        cli.main(
            ["train", "--config", "plain.yaml", "--shape", "precision", "--output_dir", "plain"]
        )
        == 0
    )
    with_liger, plain = (list(read_jsonl(f"{name}/train_log.jsonl")) for name in ("liger", "plain"))
    assert len(plain) == 3
    for a, b in zip(with_liger, plain, strict=True):
        assert {name: a[name] for name in ("loss", "nll", "grad_norm")} == pytest.approx(
            {name: b[name] for name in ("loss", "nll", "grad_norm")}, rel=1e-6
        )
