"""What TRL's model card does not say, put into it."""

from __future__ import annotations

from pathlib import Path

from eval_suite.records import write_atomic


def complete_card(output_dir: str, name: str, procedure: str) -> None:
    """Put `procedure` at the head of the card's training procedure; mend what is said of a model that is on no Hub.

    Args:
        output_dir: has the README.md that TRL wrote.
        name: of the model, for the example of how to load it.
        procedure: Markdown.
    """
    path = Path(output_dir) / "README.md"
    changes = {
        "a fine-tuned version of [None](https://huggingface.co/None)": "trained from scratch or a local model",
        'model="None"': f'model="{name}"',
        "## Training procedure\n": f"## Training procedure\n\n{procedure}\n",
    }
    text = path.read_text(encoding="utf-8")
    for old, new in changes.items():
        text = text.replace(old, new)
    write_atomic(path, text)
