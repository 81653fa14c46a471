"""Which files of a run's folder are prepared for a push: those that are named, and no link."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from shaped_eval.errors import UserError

from shaped_trl.hub.pushing import lay_out

MODEL = {
    *("config.json", "generation_config.json", "model.safetensors.index.json"),
    *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
    *("adapter_config.json", "adapter_model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "chat_template.jinja"),
    "additional_chat_templates/tool_use.jinja",
}
RUN = {
    *("README.md", "resolved.yaml", "train_log.jsonl", "train_log.png", "rl_log.jsonl"),
    *("rl_log.png", "decontamination/report.json", ".eval_results/gsm8k.yaml"),
}
RESUME = {
    *("trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state.pth", "stream-0.json"),
    *("pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp_0/__0_0.distcp"),
    *("latest", "global_step3/mp_rank_00_model_states.pt"),
}
PRIVATE = {
    *(".env", "notes.txt", "secrets.json", "key.model", "script.py", "pytorch_model.bin"),
    *("training_args.bin", "step.json", ".lock", "model.safetensors.0123456789abcdef.tmp"),
    *("completions/completions_00001.parquet", "decontamination/rows.jsonl"),
    *("runs/day_host/events.out.tfevents.1.host.2.0", "_evaluations/step-5/samples.jsonl"),
    *("other/model.safetensors", "other/config.json", "data/train_log.jsonl"),
}


def write(folder: Path, names: set[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}" if path.suffix == ".json" else "")
    return folder


def pushed(folder: Path, checkpoint: str | None = None, whole: str | None = None) -> set[str]:
    args = SimpleNamespace(output_dir=str(folder), hub_license=None)
    stage = lay_out(args, "me/x", folder / checkpoint if checkpoint else None, whole)
    return {str(path.relative_to(stage)) for path in stage.rglob("*") if not path.is_dir()}


def test_the_model_and_its_reports_are_pushed_and_nothing_else(tmp_path: Path) -> None:
    assert pushed(write(tmp_path, MODEL | RUN | PRIVATE)) == MODEL | RUN


def test_of_a_checkpoint_the_model_is_pushed_and_the_rest_only_if_asked_for(
    tmp_path: Path,
) -> None:
    write(tmp_path, RUN | PRIVATE)
    write(tmp_path / "checkpoint-3", MODEL | RESUME | PRIVATE | {"README.md"})
    assert pushed(tmp_path, "checkpoint-3") == MODEL | RUN
    whole = {f"last-checkpoint/{name}" for name in MODEL | RESUME}
    assert pushed(tmp_path, "checkpoint-3", "last-checkpoint") == MODEL | RUN | whole


def test_links_and_what_is_behind_them_are_not_pushed(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", {"secret", "tool_use.jinja", "config.json", "gsm8k.yaml"})
    folder = write(tmp_path / "run", {"model.safetensors"})
    for name in ("merges.txt", "README.md", "resolved.yaml", "config.json", "vocab.json"):
        (folder / name).symlink_to(mine / "secret")
    (folder / "additional_chat_templates").symlink_to(mine)
    (folder / ".eval_results").symlink_to(mine)
    (folder / "checkpoint-3").symlink_to(mine)
    assert pushed(folder) == {"model.safetensors"}
    assert pushed(folder, "checkpoint-3", "last-checkpoint") == {"model.safetensors"}


def test_a_folder_of_runs_may_be_a_link(tmp_path: Path) -> None:
    """The user named it."""
    write(tmp_path / "disk", {"model.safetensors"})
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    assert pushed(tmp_path / "run") == {"model.safetensors"}


@pytest.mark.parametrize("config", ["config.json", "tokenizer_config.json"])
def test_code_is_pushed_if_the_model_or_the_tokenizer_needs_it(config: str, tmp_path: Path) -> None:
    folder = write(tmp_path, {"config.json", "tokenizer_config.json", "own.py", "other/own.py"})
    assert "own.py" not in pushed(folder)
    (folder / config).write_text(json.dumps({"auto_map": {"AutoConfig": "own.OwnConfig"}}))
    assert pushed(folder) == {"config.json", "tokenizer_config.json", "own.py"}
    (folder / config).write_text("[]")
    with pytest.raises(UserError, match=f"{config}.*cannot be read"):
        pushed(folder)
