"""The model card of an RLVR run: its settings, its ledger and its curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shaped_trl.hub.cards import PAPER, numbers_table
from shaped_trl.rlvr.ledger import totals
from shaped_trl.training.log_reading import RL_LOG

_LEDGER = (
    ("groups sampled", "groups_sampled"),
    ("of which informative", "groups_informative"),
    ("all right", "groups_all_right"),
    ("all wrong", "groups_all_wrong"),
    ("mostly cut off at the length limit", "groups_truncated"),
    ("mostly without an answer that could be read", "groups_unparsed"),
    ("not graded", "groups_ungraded"),
    ("informative beyond the batch", "groups_surplus"),
    ("discarded, filling a batch without a gradient", "groups_filled"),
    ("completions too stale to train on", "completions_stale"),
    ("tokens sampled", "rollout_tokens"),
    ("tokens trained on", "trained_tokens"),
)
_OF_ONE = ("completions_stale",)  # the asynchronous trainer alone has them
_NUMBERS = {
    "reward": "reward, of what was trained on",
    "raw_reward": "reward, of all that was sampled",
    "completion_length": "completion length (tokens)",
    "entropy": "entropy (nats)",
    "eval_reward": "reward, held out",
}


def longest(args: Any) -> str:
    """The length schedule in words."""
    lengths = args.length_schedule().as_dict()
    return ", ".join(f"{length:,} tokens from step {step:,}" for step, length in lengths.items())


def settings(args: Any) -> str:
    """The settings of a synchronous run that matter here, as a sentence."""
    clip = "strictly on-policy, no clipping acts" if args.strictly_on_policy else "clipping acts"
    return (
        f"Reinforcement learning with verifiable rewards: GRPO, loss `{args.loss_type}`, epsilon "
        f"{args.epsilon} / {args.epsilon_high} ({clip}), KL coefficient {args.beta}, "
        f"{args.num_generations} completions a prompt, "
        f"{args.generation_batch_size // args.num_generations} prompts a generation batch, "
        f"temperature {args.temperature}; longest completion {longest(args)}; dynamic sampling "
        f"(DAPO, arXiv 2503.14476) {'on' if args.dynamic_sampling else 'off'}."
    )


def procedure(settings: str, rows: list[dict[str, Any]], prior: str | None = None) -> str:
    """Markdown of the settings that matter here, and of what the rows of the log add up to.

    Args:
        settings: the settings, as a sentence.
        rows: the rows of the log.
        prior: the loss with which the model was trained before, if it is known.
    """
    lines = [settings]
    if prior:
        lines += ["", f"The prior was trained with the reward-shaped loss ({PAPER}): {prior}."]
    done = [row for row in rows if row.get("loss") is not None]
    if done:
        lines += ["", f"{done[-1]['step']:,} optimizer steps.", "", numbers_table(rows, _NUMBERS)]
    counts = totals(rows)
    if counts["groups_sampled"]:
        lines += ["", "| rollouts | |", "|---|--:|"]
        shown = [(label, key) for label, key in _LEDGER if counts[key] or key not in _OF_ONE]
        lines += [f"| {label} | {counts[key]:,} |" for label, key in shown]
        lines += ["", f"![curves]({Path(RL_LOG).with_suffix('.png')})"]
    return "\n".join(lines)
