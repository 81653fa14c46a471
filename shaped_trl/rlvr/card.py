"""The model card of an RLVR run: its settings, its ledger and its curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shaped_trl.rlvr.ledger import totals
from shaped_trl.study.logs import RL_LOG, read_log
from shaped_trl.training.cards import complete_card

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
    ("tokens sampled", "rollout_tokens"),
    ("tokens trained on", "trained_tokens"),
)


class RLVRCard:
    """Mixin of a trainer: completes TRL's model card."""

    args: Any

    def create_model_card(self, model_name=None, dataset_name=None, tags=None):
        name = model_name or Path(self.args.output_dir).name
        super().create_model_card(name, dataset_name, tags)  # type: ignore[misc]
        if self.is_world_process_zero():  # type: ignore[attr-defined]
            said = procedure(self.args, read_log(Path(self.args.output_dir) / RL_LOG))
            complete_card(self.args.output_dir, self.hub_model_id or name, said)  # type: ignore[attr-defined]


def procedure(args: Any, rows: list[dict[str, Any]]) -> str:
    """Markdown of the settings that matter here, and of what the rows of the log add up to."""
    clip = "strictly on-policy, no clipping acts" if args.strictly_on_policy else "clipping acts"
    lengths = args.length_schedule().as_dict()
    longest = ", ".join(f"{length:,} tokens from step {step:,}" for step, length in lengths.items())
    lines = [
        f"Reinforcement learning with verifiable rewards: GRPO, loss `{args.loss_type}`, epsilon {args.epsilon} / "
        f"{args.epsilon_high} ({clip}), KL coefficient {args.beta}, {args.num_generations} completions a prompt, "
        f"{args.generation_batch_size // args.num_generations} prompts a generation batch, temperature "
        f"{args.temperature}; longest completion {longest}; dynamic sampling (DAPO, arXiv 2503.14476) "
        f"{'on' if args.dynamic_sampling else 'off'}.",
    ]
    counts = totals(rows)
    if counts["groups_sampled"]:
        lines += ["", "| rollouts | |", "|---|--:|"]
        lines += [f"| {label} | {counts[key]:,} |" for label, key in _LEDGER]
        lines += ["", f"![curves]({Path(RL_LOG).with_suffix('.png')})"]
    return "\n".join(lines)
