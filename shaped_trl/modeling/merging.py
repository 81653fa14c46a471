"""Makes a whole model of a LoRA adapter and its base model."""

from __future__ import annotations

from pathlib import Path

from shaped_eval.errors import UserError
from shaped_eval.untrusted.locks import LOCK
from shaped_eval.untrusted.pretrained import is_adapter, read_pretrained
from transformers import AutoModelForCausalLM, AutoTokenizer


def merge(adapter: str, out: str | Path) -> None:
    """Merge an adapter into its base model, in the base model's dtype, and save it with tokenizer.

    `shaped_eval` merges in the same way when it evaluates the adapter's folder, so that both have
    the same weights.

    Args:
        adapter: folder of the adapter.
        out: folder of the new model, which is created if needed.

    Raises:
        UserError: `adapter` is not the folder of an adapter, `out` is not empty, or as
            `shaped_eval.untrusted.pretrained.read_adapter`.
    """
    if not is_adapter(adapter):
        raise UserError(f"adapter={adapter!r} has no adapter_config.json, or is a whole model")
    out = Path(out)
    if out.is_dir() and any(path.name != LOCK for path in out.iterdir()):
        raise UserError(f"out={str(out)!r} is not empty: name another folder")
    tokenizer = read_pretrained(AutoTokenizer, adapter, "adapter")
    model = read_pretrained(AutoModelForCausalLM, adapter, "adapter", dtype="auto")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
