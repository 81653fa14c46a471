"""Training with interpreted Triton kernels has the curve of the chunked loss."""

import os
import subprocess
import sys

import pytest
import yaml
from shaped_eval.records import read_jsonl

from shaped_trl import recipes
from shaped_trl.data.running_sums import write_corpus

RUN = "import sys; from shaped_trl import cli; sys.exit(cli.main(sys.argv[1:]))"


def curve(folder, impl: str) -> list[dict]:
    """The log of `shaped-trl train` with `impl`, in a process that interprets kernels."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    # the interpreter computes with numpy, which warns of infinities that the arithmetic handles
    command = [sys.executable, "-W", "ignore::RuntimeWarning", "-c", RUN]
    command += ["train", "--config", "recipe.yaml", "--loss_impl", impl, "--output_dir", impl]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return list(read_jsonl(folder / impl / "train_log.jsonl"))


@pytest.mark.slow
def test_the_demos_pre_training_has_the_curve_of_chunked(tmp_path):
    """Every logged number, including the evaluations, agrees to 1e-6 on the demo in fp32."""
    pytest.importorskip("triton", reason="triton is not installed")
    write_corpus(tmp_path, train_rows=512, heldout_rows=1, rl_rows=1)
    settings = recipes.load(recipes.find("demo/pretrain")) | {
        "dataset_name": "train.jsonl",
        "dataset_test_split": "heldout.jsonl",
        "max_steps": 2,
        "per_device_train_batch_size": 2,
        "lr_scheduler_kwargs": {"num_decay_steps": 1, "decay_type": "linear"},
        "warmup_steps": 1,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "no",
        "disable_tqdm": True,
        "beta": -0.25,
        "lambda_head": 0.05,
        "lambda_tail": -0.1,
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(settings))
    chunked, triton = (curve(tmp_path, impl) for impl in ("chunked", "triton"))
    assert [row["step"] for row in chunked] == [1, 2, 2]
    assert chunked[1]["nll"] < chunked[0]["nll"]
    for a, b in zip(triton, chunked, strict=True):
        names = b.keys() - {name for name in b if name.endswith(("runtime", "per_second"))}
        assert {name: a[name] for name in names} == pytest.approx(
            {name: b[name] for name in names}, rel=1e-6
        )
