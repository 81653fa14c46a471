"""Run the commands and snippets of pages as they stand, in an empty folder.

    python tests/helpers/page_runs.py README.md docs/guides/training.md
    python tests/helpers/page_runs.py --install README.md

Each page has a folder of its own. First its files are written: a block of Python whose first line
is `# NAME.py`, and a block of data whose file the sentence before it names in backticks. Then its
other blocks run in their order, each as a shell or a Python program. A block that fails is printed
with the end of what it said.

With `--install` the folder is a fresh clone of this repository with an empty environment, and the
lines that install or that need `make` run as well. Without it they are left out, and the commands
are those of the environment that runs this script.

Three things differ from the page:

- models: `SUBSTITUTES` gives a tiny model in place of the Hub's and of `MODEL`;
- data: the files of `brought` are what the reader brings, and a mirror has a few rows in place of
  the Hub's data sets;
- options: `ADDED` makes the commands short whose tiny model would take more than minutes, and lets
  RL go on although that model solves nothing.

What is not a command is left out and counted: options alone, and lines with `...`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt
from places import MIRROR, ROOT

TINY = "tiny-model"
SUBSTITUTES = {
    "HuggingFaceTB/SmolLM2-135M": TINY,
    "Qwen/Qwen3-0.6B-Base": TINY,
    "--model_name_or_path MODEL": f"--model_name_or_path {TINY}",
    "--model MODEL": f"--model {TINY}",
}
ADDED = {
    "rlvr": "--max_steps 4 --on_no_signal ignore",
    "rlvr --config gsm8k/rlvr": "--max_completion_length 8 --max_sampling_rounds 1",
}
PROGRAMS = ("shaped-trl", "python", "pip", "make")
INSTALLS = ("pip ", "make ")
SHELL, PYTHON = ("", "bash", "sh"), "python"


class Block(NamedTuple):
    """A fenced block of a page, and the paragraph before it."""

    language: str
    text: str
    before: str
    line: int


class Outcome(NamedTuple):
    """What became of a block: `ran`, `failed`, `written` or `left out`; what it said, and seconds."""

    block: Block
    status: str
    output: str = ""
    seconds: float = 0


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    found, before = [], ""
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type == "inline":
            before = token.content
        elif token.type == "fence":
            assert token.map is not None
            found.append(Block(token.info, token.content, before, token.map[0] + 1))
    return found


def file_name(block: Block) -> str | None:
    """The name of the file that a block is, if it is one."""
    if block.language == PYTHON:
        named = re.match(r"# (\w+\.py)\n", block.text)
        return named[1] if named else None
    if block.language in ("yaml", "json") or block.text.startswith("{"):
        names = re.findall(r"`([\w/.-]+\.(?:yaml|jsonl?))`", block.before)
        return Path(names[-1]).name if names else None
    return None


def program(block: Block, installs: bool) -> str | None:
    """The shell or Python program that a block is, with substitutes; None if it is none."""
    text = block.text
    for there, here in SUBSTITUTES.items():
        text = text.replace(there, here)
    if block.language == PYTHON:
        return text
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    if block.language not in SHELL or not lines or not lines[0].startswith(PROGRAMS):
        return None
    kept = [with_options(line) for line in lines if installs or not line.startswith(INSTALLS)]
    return "\n".join(line for line in kept if " ... " not in line) or None


def with_options(line: str) -> str:
    """A command with the options of `ADDED`."""
    command, comment, rest = line.partition("  #")
    for start, options in ADDED.items():
        if command.startswith(f"shaped-trl {start} "):
            command = f"{command} {options}"
    return command + comment + rest


def run_page(page: Path, folder: Path, installs: bool = False) -> Iterator[Outcome]:
    """Write the files of a page into a folder, then run its programs there, one at a time.

    Args:
        page: a Markdown file.
        folder: where it happens. `prepare` has been there.
        installs: whether lines that install are run, too.
    """
    found = blocks(page)
    for block in found:
        if name := file_name(block):
            (folder / name).write_text(block.text, encoding="utf-8")
            yield Outcome(block, "written")
    for block in found:
        if file_name(block):
            continue
        text = program(block, installs)
        yield Outcome(block, "left out") if text is None else run(block, text, folder)


def run(block: Block, text: str, folder: Path) -> Outcome:
    """Run a program as a reader does, and stop at its first error."""
    if block.language == PYTHON:
        (folder / "snippet.py").write_text(text, encoding="utf-8")
        command = ["python", "snippet.py"]
    else:
        command = ["bash", "-euo", "pipefail", "-c", text]
    start = time.monotonic()
    ended = subprocess.run(
        command,
        cwd=folder,
        env=environment(folder),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    status = "failed" if ended.returncode else "ran"
    return Outcome(block, status, ended.stdout, time.monotonic() - start)


def environment(folder: Path) -> dict[str, str]:
    """The variables of a program: the environment of the clone, or the one that runs this."""
    own = folder / ".venv"
    active = own if own.is_dir() else Path(sys.prefix)
    return os.environ | {
        "PATH": os.pathsep.join((str(active / "bin"), os.environ["PATH"])),
        "VIRTUAL_ENV": str(active),
        "SHAPED_TRL_HUB_MIRROR": str(folder / "mirror"),
        "HF_HUB_OFFLINE": "1",
    }


def prepare(folder: Path) -> None:
    """Put into a folder what the reader has: a model, data, and a mirror in place of the Hub."""
    save_model(folder / TINY)
    for name, text in brought().items():
        (folder / name).write_text(text, encoding="utf-8")
    write_mirror(folder / "mirror")


def as_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def brought() -> dict[str, str]:
    """The files that the pages take for granted."""
    sums = [{"prompt": f"{a}+{b}=", "gold": str(a + b)} for a in range(4) for b in range(4)]
    answers = [{"problem_id": "1", "completions": ["It is 12.", "7"], "gold": "12"}]
    return {
        "texts.jsonl": as_lines([{"text": f"{a}+5={a + 5}"} for a in range(10)] * 4),
        "PROMPTS.jsonl": as_lines(sums),
        "prompts.jsonl": as_lines(sums),
        "answers.jsonl": as_lines(answers),
    }


def write_mirror(folder: Path) -> None:
    """A few rows of GSM8K, real ones where they are at hand, and of the data set `me/my-data`."""
    counting = [
        {"question": f"How many are {n} and {n}?", "answer": f"Counting.\n#### {2 * n}"}
        for n in range(104)
    ]
    for split, part in (("train", counting[:96]), ("test", counting[96:])):
        real = MIRROR / f"openai/gsm8k/main/{split}.jsonl"
        if real.is_file():
            lines = real.read_text(encoding="utf-8").splitlines()[: len(part)]
            part = [json.loads(line) for line in lines]
        own = [
            row | {"answer": row["answer"].split()[-1], "solution": row["answer"]} for row in part
        ]
        for name, rows in (("openai/gsm8k/main", part), ("me/my-data/default", own)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            (folder / name / f"{split}.jsonl").write_text(as_lines(rows), encoding="utf-8")


def save_model(folder: Path) -> None:
    """A tiny model that was trained on sums for seconds and gets about half of them right."""
    import torch
    from tiny import tiny_model

    from shaped_trl.data.tokenizers import train_tokenizer

    sums = [(f"{a}+{b}=", str(a + b)) for a in range(10) for b in range(10)]
    texts = ["".join(one) for one in sums] + ["Question: How many?\nAnswer: 4\n#### 4"] * 8
    tokenizer = train_tokenizer(texts, "bpe", 300)
    model = tiny_model(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        max_position_embeddings=4096,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    prompt_tokens = len(tokenizer("1+2=")["input_ids"])
    rows = [[*tokenizer(a + b)["input_ids"], tokenizer.eos_token_id] for a, b in sums]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
    labels = torch.tensor([row + [-100] * (longest - len(row)) for row in rows])
    labels[:, :prompt_tokens] = -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loss = torch.tensor(torch.inf)
    while loss > 0.3:
        loss = model(ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def clone(folder: Path) -> None:
    """A fresh clone of what is committed here, with an empty environment."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder / ".venv")], check=True)


def main(argv: list[str] | None = None) -> int:
    """Run pages, and print what became of each block; 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument(
        "--install", action="store_true", help="in a fresh clone, installs included"
    )
    given = parser.parse_args(argv)
    failed = 0
    for page in given.pages:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "shaped-trl"
            if given.install:
                clone(folder)
            folder.mkdir(exist_ok=True)
            prepare(folder)
            for block, status, output, seconds in run_page(page, folder, given.install):
                print(f"{page}:{block.line}: {status}, {seconds:.0f} s", flush=True)
                failed += status == "failed"
                if status == "failed":
                    print(block.text, *output.splitlines()[-30:], sep="\n    ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
