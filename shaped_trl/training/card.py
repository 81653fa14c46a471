"""The section about training in a `ShapedTrainer`'s model card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from shaped_kernels.shape import POSITIVE_FORMS

from shaped_trl.hub.cards import PAPER, numbers_table
from shaped_trl.training.config import ShapedConfig
from shaped_trl.training.log_reading import TRAIN_LOG

NUMBERS = {
    "loss": "loss of the shape, training",
    "nll": "nll, training",
    "perplexity": "perplexity, training",
    "entropy": "entropy (nats), training",
    "head_mass": "head mass, training",
    "tail_mass": "tail mass, training",
    "mean_token_accuracy": "accuracy of the likeliest token, training",
}


def procedure(args: ShapedConfig, rows: Sequence[Mapping[str, Any]]) -> str:
    """The shape, the tokens, the last numbers and the curves, as Markdown.

    Args:
        args: the arguments of the run.
        rows: the rows of its log so far.
    """
    shape = asdict(args.reward_shape())
    for name in {"alpha", "threshold"} - {POSITIVE_FORMS[args.positive]}:
        del shape[name]
    if args.loss_temperature == 1:
        del shape["loss_temperature"]
    scheduled: Any = args.shape_schedule or {}
    lines = [
        f"Reward-shaped next-token loss ({PAPER}, Eq. 10 to 13). It is cross-entropy if beta, "
        "lambda_head and lambda_tail are 0.",
        "",
        "| reward shape | |",
        "|---|--:|",
    ]
    lines += [
        f"| {name} | {'scheduled' if name in scheduled else value} |"
        for name, value in shape.items()
    ]
    if scheduled:
        lines += ["", f"Schedule of the shape, by step: `{json.dumps(scheduled)}`."]
    done = [row for row in rows if row.get("tokens") is not None]
    if done:
        lines += ["", f"Trained on {done[-1]['tokens']:,} tokens in {done[-1]['step']:,} steps."]
        held_out = {
            f"eval_{name}": words.replace("training", "held out") for name, words in NUMBERS.items()
        }
        last = {name for row in rows for name in row}
        others = {
            name: f"nll, held out, {name.partition('nll_source_')[2]}"
            for name in sorted(last)
            if name.startswith("eval_nll_source_")
        }
        lines += ["", numbers_table(rows, {**NUMBERS, **held_out, **others})]
        lines += ["", f"![curves]({Path(TRAIN_LOG).with_suffix('.png')})"]
    return "\n".join(lines)
