"""`RewardShape`: the reward of each token of the vocabulary, as a frozen, validated value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from .vocab_parallel import VocabularyShard

POSITIVE_FORMS = ("exponent", "product", "power")


@dataclass(frozen=True)
class RewardShape:
    """The rewards of next-token prediction as a one-step episode (arXiv 2512.22955, Eq. 10–13).

    Notation: p is the predicted probability of the target, r its reward, w = p·r the weight of its
    log-probability in the loss, and K the set of the `top_k` most probable tokens (of equally
    probable tokens, the lowest id comes first). The defaults are cross-entropy.

    Args:
        beta: β of Eq. 11, at least −1, in the form that `positive` names. Below 0 it sharpens the
            distribution ("precision"), above 0 it keeps it broad ("diversity"), 0 is cross-entropy
            in every form.
        lambda_head: λ̃, the reward of the tokens of K other than the target (Eq. 12–13).
        lambda_tail: λ̂, the reward of the tokens outside K other than the target (Eq. 12–13).
        top_k: size of K (Eq. 12–13), at least 1; there is no tail if it exceeds the vocabulary.
        positive: the form of the target's reward.
            ``"exponent"`` (default) is the paper's Eq. 11: r = (1/p)^((1−p)^β), so w =
            p^(1−(1−p)^β). ``"product"`` is this project's variant, a focal-like weight without a
            gradient: r = (1/p)·(1−p)^β, so w = (1−p)^β. kernels/README.md explains why the first is
            taken to be the paper's. ``"power"`` is a baseline from another paper: w = p^α; α = 1 is
            DFT (arXiv 2508.05629).
        alpha: exponent of ``"power"``, above 0.

    Raises:
        ValueError: a field is out of range, or is set although `positive` does not use it.
    """

    beta: float = 0.0
    lambda_head: float = 0.0
    lambda_tail: float = 0.0
    top_k: int = 100
    positive: str = "exponent"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        for name in ("beta", "lambda_head", "lambda_tail", "alpha"):
            _require_finite(name, getattr(self, name))
        if self.beta < -1:
            raise ValueError(
                f"beta={self.beta!r} is below -1, where the gradient diverges as the target "
                "becomes "
                "certain; use a value of at least -1, for example -0.25"
            )
        if not isinstance(self.top_k, int) or isinstance(self.top_k, bool) or self.top_k < 1:
            raise ValueError(
                f"top_k={self.top_k!r} is not a whole number of at least 1; to drop the rewards of "
                "head and tail set lambda_head and lambda_tail to 0"
            )
        if self.positive not in POSITIVE_FORMS:
            raise ValueError(
                f"positive={self.positive!r} is unknown; use one of {', '.join(POSITIVE_FORMS)}"
            )
        if self.alpha <= 0:
            raise ValueError(
                f"alpha={self.alpha!r} is not above 0; for unweighted cross-entropy leave out "
                "positive "
                "and alpha"
            )
        if self.positive == "power" and self.beta != 0:
            raise ValueError(
                f"beta={self.beta!r} is unused by positive='power'; leave it at 0 and set alpha"
            )
        if self.positive != "power" and self.alpha != 1:
            raise ValueError(
                f"alpha={self.alpha!r} is unused by positive={self.positive!r}; leave it at 1, or "
                "use "
                "positive='power'"
            )

    @classmethod
    def preset(cls, name: str) -> RewardShape:
        """The shape called `name` in `PRESETS`.

        Raises:
            ValueError: there is no such preset; the message lists those that exist.
        """
        if name not in PRESETS:
            raise ValueError(f"shape preset {name!r} is unknown; use one of {', '.join(PRESETS)}")
        return PRESETS[name]

    @property
    def is_cross_entropy(self) -> bool:
        """Whether loss and gradient are exactly those of cross-entropy."""
        return self.weight_is_one and self.lambda_head == 0 and self.lambda_tail == 0

    @property
    def form_of_beta(self) -> str | None:
        """The form in which β acts, "exponent" or "product"; None if β is 0."""
        return self.positive if self.beta != 0 else None

    @property
    def weight_is_one(self) -> bool:
        """Whether the target's term is the plain negative log-likelihood."""
        return self.positive != "power" and self.beta == 0


def _require_finite(name: str, value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError(
            f"{name}={value!r} is not a finite number; write it as one, for example 0.1"
        )


PRESETS = MappingProxyType(
    {
        "cross_entropy": RewardShape(),
        "precision": RewardShape(beta=-0.25),
        "diversity": RewardShape(beta=0.5),
        "precision_product": RewardShape(beta=-0.25, positive="product"),
        "diversity_product": RewardShape(beta=0.5, positive="product"),
        "tail_penalty": RewardShape(lambda_tail=-0.1),
        "head_reward": RewardShape(lambda_head=0.1),
    }
)


class LossOptions(NamedTuple):
    """The validated options that `shaped_linear_loss` passes to an implementation."""

    shape: RewardShape
    logit_scale: float
    softcap: float | None
    metrics: tuple[str, ...]
    chunk_mb: float | None
    accum_dtype: torch.dtype | None
    shard: VocabularyShard | None = None
    z_loss: float = 0.0
    per_token: bool = False
