"""Find the temperature at which one trained model has the entropy of another.

This gives a control for the effect of a shape. A shape that lowers the entropy also makes rollouts
less random, and cross-entropy can have that for free at a lower temperature. The entropy is that on
held-out text, which the trainer's own evaluation measures on the rows that both models were
evaluated on; or that of each model on its own rollouts (`shaped_trl.study.running.rollouts`).

The control is either the model sampled at this temperature, or a plain model that has it at T = 1:
the same model with its head divided by the temperature.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scipy.optimize import brentq
from shaped_eval.errors import UserError
from shaped_eval.records import write_atomic

from shaped_trl.study.plan import DIVIDE, FOUND
from shaped_trl.training.log_reading import TRAIN_LOG, curve, read_log

if TYPE_CHECKING:
    from shaped_trl.training.trainer import ShapedTrainer

LOWEST, HIGHEST = 0.05, 20.0
STEP = 0.25  # of ln T, in which a bracket is sought
TOLERANCE = 1e-3  # of ln T on held-out text; reached after about 8 evaluations
TOLERANCE_ROLLOUTS = 5e-3  # what 4,096 rollouts can tell apart


def main(argv: list[str]) -> int:
    """Find the temperature, and write it to OUT/temperature.json; divide a head by it if asked to.

    The file is {"temperature", "entropy", "entropy_at_1", "wanted", "tried": [[T, entropy], …]};
    without ``--like``, it is {"temperature"}.

    Raises:
        UserError: a run has no held-out entropy, no temperature in [0.05, 20] gives it, or the head
            cannot be divided.
    """
    parser = argparse.ArgumentParser(prog=argv[0], description=__doc__)
    for flag in ("--model", "--out"):
        parser.add_argument(flag, type=Path, required=True)
    parser.add_argument("--like", type=Path)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--rollouts", nargs=argparse.REMAINDER)
    args = parser.parse_args(argv[1:])
    found = _find(args) if args.like else {"temperature": args.temperature}
    if argv[0] == DIVIDE:
        _save_divided(args.model, found["temperature"], args.out)
    write_atomic(args.out / FOUND, json.dumps(found, indent=2) + "\n")
    at = f": entropy {found['entropy']:.4f}, target {found['wanted']:.4f}" if args.like else ""
    print(f"T={found['temperature']:.4f}{at}")
    return 0


def _find(args: argparse.Namespace) -> dict[str, Any]:
    if args.rollouts is None:
        _, entropies = curve(read_log(args.like / TRAIN_LOG), "eval_entropy")
        if not entropies:
            raise UserError(
                f"{args.like}: no held-out entropy in its log; set dataset_test_split and "
                "eval_strategy"
            )
        return match(args.model, entropies[-1], args.out)
    from shaped_trl.study.running.rollouts import Rollouts

    rollouts = Rollouts(args.rollouts[0], args.rollouts[1:], args.model)
    of_recipe = rollouts.args.temperature  # which the one that is found multiplies (`scaled`)
    return solve(
        lambda temperature: rollouts.entropy(args.model, temperature * of_recipe),
        rollouts.entropy(args.like, of_recipe),
        str(args.model),
        TOLERANCE_ROLLOUTS,
    )


def _save_divided(folder: Path, temperature: float, out: Path) -> None:
    """Save the model in `folder` with its head divided by the temperature, as a plain model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from shaped_trl.modeling.divided_head import divide_head

    model = AutoModelForCausalLM.from_pretrained(folder)
    divide_head(model, temperature)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder).save_pretrained(out)


def match(folder: Path, target: float, out: Path) -> dict[str, Any]:
    """Find the temperature that gives the model in `folder` the held-out entropy `target` (nats).

    The evaluations log to `out`, so that the run in `folder` is not changed.
    """
    trainer = _trainer(folder, out)

    def entropy(temperature: float) -> float:
        with _cooled(trainer, temperature):
            return trainer.evaluate()["eval_entropy"]

    return solve(entropy, target, str(folder), TOLERANCE)


def solve(
    entropy: Callable[[float], float], target: float, model: str, tolerance: float
) -> dict[str, Any]:
    """Find the temperature T with ``entropy(T) == target``, up to the `tolerance` of ln T.

    For every distribution the entropy rises with the temperature, and so does that of held-out
    text. That of rollouts need not, since a lower temperature may sample other texts. Of several
    temperatures the one nearest to 1 is found, up to steps of a quarter of ln T.

    Raises:
        UserError: no temperature in [0.05, 20] gives it; `model` names the model.
    """
    tried: dict[float, float] = {}

    def excess(log_t: float) -> float:
        temperature = math.exp(log_t)
        if temperature not in tried:
            tried[temperature] = entropy(temperature)
        return tried[temperature] - target

    at_1 = excess(0.0) + target
    if not math.isfinite(at_1 - target):
        raise UserError(
            f"{model}: entropies of {at_1:g} at T = 1 and {target:g} to reach: a model has diverged"
        )
    sign, end = (-1, math.log(LOWEST)) if at_1 > target else (1, math.log(HIGHEST))
    inner, outer = 0.0, sign * STEP
    while sign * excess(outer) < 0:
        if outer == end:
            raise UserError(
                f"{model}: no temperature in [{LOWEST}, {HIGHEST}] gives an entropy of "
                f"{target:.4f}; at 1 it is {at_1:.4f}, at {math.exp(end):g} "
                f"{excess(end) + target:.4f}. If these are entropies of rollouts, match on held_out"
            )
        inner, outer = outer, min(max(outer + sign * STEP, math.log(LOWEST)), math.log(HIGHEST))
    log_t = brentq(excess, *sorted((inner, outer)), xtol=tolerance)
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
