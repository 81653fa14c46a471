"""Tiny training runs that are pushed to a stand-in for the Hub."""

import json
from pathlib import Path

from tiny import WORDS

from shaped_trl import cli

MODEL = {"model_type": "qwen3", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
MODEL |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
TRAINING = {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 2}
TRAINING |= {
    "packing": True,
    "max_length": 32,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}

# A script for a process that cannot import our packages: greedy tokens of each model, and the output
# of the example in each card.
ELSEWHERE = """\
import contextlib, io, json, sys
for name in ("shaped_trl", "shaped_kernels", "shaped_eval", "trl"):
    sys.modules[name] = None
from huggingface_hub import hf_hub_download
from transformers import AutoModelForCausalLM, AutoTokenizer

def tokens(name):
    model = AutoModelForCausalLM.from_pretrained(name)
    tokenizer = AutoTokenizer.from_pretrained(name)
    inputs = tokenizer("w1 w2 w3", return_tensors="pt")
    return model.generate(**inputs, max_new_tokens=9, do_sample=False)[0].tolist()

found = {name: tokens(name) for name in sys.argv[1:]}
for name in sys.argv[1:]:
    if name.startswith("me/"):
        card = open(hf_hub_download(name, "README.md"), encoding="utf-8").read()
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(card.split("```python\\n")[1].split("```")[0], {})
        found["example of " + name] = printed.getvalue()
print(json.dumps(found))
"""


def write_rows(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"text": " ".join(WORDS[i : i + 9])} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def train(folder: Path, name: str, **settings) -> int:
    recipe = folder / f"{name}.yaml"
    recipe.write_text(json.dumps({"output_dir": str(folder / name), **TRAINING, **settings}))
    return cli.main(["train", "--config", str(recipe)])


def contents(folder: Path) -> dict[Path, bytes]:
    """The content of a run's files, without the record of its last command."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "resolved.yaml"
    }


def only_error(capsys) -> str:
    lines = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("shaped-trl: ")
    ]
    assert len(lines) == 1, lines
    return lines[0]
