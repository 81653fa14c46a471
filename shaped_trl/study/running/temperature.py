"""Find the temperature at which one trained model has the held-out entropy of another.

This gives a control for the effect of a shape.

A shape that lowers the entropy also makes rollouts less random, and cross-entropy can have that for
free at a lower temperature. The trainer's own evaluation measures the entropy, on the rows that
both models were evaluated on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy.optimize import brentq
from shaped_eval.errors import UserError
from shaped_eval.records import write_atomic

from shaped_trl.study.plan import FOUND
from shaped_trl.training.log_reading import TRAIN_LOG, curve, read_log

if TYPE_CHECKING:
    from shaped_trl.training.trainer import ShapedTrainer

LOWEST, HIGHEST = 0.05, 20.0
TOLERANCE = 1e-3  # of ln T; reached after about 8 evaluations


def main(argv: list[str]) -> int:
    """Find the temperature, and write it to OUT/temperature.json.

    The file is {"temperature", "entropy", "entropy_at_1", "wanted", "tried": [[T, entropy], …]}.

    Raises:
        UserError: a run has no held-out entropy, or no temperature in [0.05, 20] gives it.
    """
    parser = argparse.ArgumentParser(prog="match", description=__doc__)
    for flag in ("--model", "--like", "--out"):
        parser.add_argument(flag, type=Path, required=True)
    args = parser.parse_args(argv[1:])
    _, entropies = curve(read_log(args.like / TRAIN_LOG), "eval_entropy")
    if not entropies:
        raise UserError(
            f"{args.like}: no held-out entropy in its log; set dataset_test_split and eval_strategy"
        )
    found = match(args.model, entropies[-1], args.out)
    write_atomic(args.out / FOUND, json.dumps(found, indent=2) + "\n")
    print(
        f"T={found['temperature']:.4f}: entropy {found['entropy']:.4f}, "
        f"target {found['wanted']:.4f}"
    )
    return 0


def match(folder: Path, target: float, out: Path) -> dict:
    """Find the temperature that gives the model in `folder` the held-out entropy `target` (nats).

    The evaluations log to `out`, so that the run in `folder` is not changed.
    """
    trainer = _trainer(folder, out)
    tried: dict[float, float] = {}

    def excess(log_t: float) -> float:
        temperature = math.exp(log_t)
        if temperature not in tried:
            with _cooled(trainer, temperature):
                tried[temperature] = trainer.evaluate()["eval_entropy"]
        return tried[temperature] - target

    # For every distribution the entropy rises with the temperature.
    if excess(math.log(LOWEST)) > 0 or excess(math.log(HIGHEST)) < 0:
        raise UserError(
            f"{folder}: no temperature in [{LOWEST}, {HIGHEST}] gives an entropy of {target:.4f}"
        )
    at_1 = excess(0.0) + target
    inside = (math.log(LOWEST), 0.0) if at_1 >= target else (0.0, math.log(HIGHEST))
    log_t = brentq(excess, *inside, xtol=TOLERANCE)
    excess(log_t)
    temperature = math.exp(log_t)
    return {
        "temperature": temperature,
        "entropy": tried[temperature],
        "entropy_at_1": at_1,
        "wanted": target,
        "tried": sorted(tried.items()),
    }


@contextlib.contextmanager
def _cooled(trainer: ShapedTrainer, temperature: float) -> Iterator[None]:
    """Divide all logits by the temperature within this context."""
    head, logits = trainer.model.get_output_embeddings(), trainer.head.logits
    if getattr(head, "bias", None) is not None or logits is None or logits.softcap is not None:
        raise UserError(
            "entropy_of needs a model with linear logits: this one has a bias or a soft cap"
        )
    hook = head.register_forward_pre_hook(
        lambda module, inputs: (inputs[0] / temperature, *inputs[1:])
    )
    try:
        yield
    finally:
        hook.remove()


def _trainer(folder: Path, out: Path):
    """A trainer with a run's trained model and its held-out rows, only for evaluation."""
    from shaped_trl.options import train_options
    from shaped_trl.recipes import RESOLVED, Parser, load
    from shaped_trl.training.run import build_trainer

    given = ["--model_name_or_path", str(folder), "--output_dir", str(out)]
    given += [
        "--report_to",
        "none",
        "--disable_tqdm",
        "true",
        *_moved(load(folder / RESOLVED), folder),
    ]
    (corpus, args, model_args, *_), _ = Parser("train", train_options()).resolve(
        str(folder / RESOLVED), given
    )
    return build_trainer(corpus, args, model_args)


def _moved(settings: dict[str, Any], folder: Path) -> list[str]:
    """Flags for the run's data if it has been moved together with the run's folder."""
    before, now = Path(settings["output_dir"]), folder.absolute()
    while before.name and before.name == now.name:
        before, now = before.parent, now.parent
    flags = []
    for name in ("dataset_name", "dataset_test_split"):
        path = Path(str(settings.get(name)))
        if before != now and path.is_relative_to(before) and not path.exists():
            flags += [f"--{name}", str(now / path.relative_to(before))]
    return flags
