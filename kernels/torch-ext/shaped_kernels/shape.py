"""`RewardShape`: the reward of each token of the vocabulary, as a frozen, validated value."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    from .vocab_parallel import VocabularyShard

# form -> the field that it uses; the fields of other forms must keep their defaults
POSITIVE_FORMS = MappingProxyType(
    {
        "exponent": "beta",
        "product": "beta",
        "power": "alpha",
        "threshold": "threshold",
        "entropy": None,
    }
)


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
            taken to be the paper's. The others are from other papers, and give w as a constant:
            ``"power"``: w = p^α, whose gradient is that of (1 − p^α)/α (arXiv 2510.00526); α = 1 is
            DFT (arXiv 2508.05629). ``"threshold"``: w = 1 if p > τ, else 0 (ProFit,
            arXiv 2601.09195). ``"entropy"``: w = H/ln k, where H is the entropy in nats of the
            softmax over K alone, and k is `top_k` (EAFT, arXiv 2601.02151).
        alpha: exponent of ``"power"``, above 0.
        threshold: τ of ``"threshold"``, at least 0 and below 1.
        loss_temperature: T, above 0. The loss is T times the loss of the logits z/T. Metrics are
            those of z. With cross-entropy this is GEM with a linear h (arXiv 2408.16673), whose β
            is T.

    Raises:
        ValueError: a field is out of range, or is set although `positive` does not use it.
    """

    beta: float = 0.0
    lambda_head: float = 0.0
    lambda_tail: float = 0.0
    top_k: int = 100
    positive: str = "exponent"
    alpha: float = 1.0
    threshold: float = 0.0
    loss_temperature: float = 1.0

    def __post_init__(self) -> None:
        for name in (
            *("beta", "lambda_head", "lambda_tail", "alpha"),
            *("threshold", "loss_temperature"),
        ):
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
        if not 0 <= self.threshold < 1:
            raise ValueError(
                f"threshold={self.threshold!r} is not a probability of at least 0 and below 1"
            )
        if self.loss_temperature <= 0:
            raise ValueError(f"loss_temperature={self.loss_temperature!r} is not above 0")
        if self.positive == "entropy" and self.top_k < 2:
            raise ValueError(
                f"top_k={self.top_k!r} is not at least 2, which positive='entropy' needs: the "
                "entropy of one token is always 0"
            )
        self._check_unused()

    def _check_unused(self) -> None:
        """Refuse a field that has a value although the form does not use it."""
        used = POSITIVE_FORMS[self.positive]
        for name, default in (("beta", 0), ("alpha", 1), ("threshold", 0)):
            value = getattr(self, name)
            if value != default and name != used:
                remedy = f" and set {used}" if used else ""
                forms = " or ".join(
                    repr(form) for form, own in POSITIVE_FORMS.items() if own == name
                )
                raise ValueError(
                    f"{name}={value!r} is unused by positive={self.positive!r}; leave it at "
                    f"{default}{remedy}, or use positive={forms}"
                )

    @classmethod
    def preset(cls, name: str, **fields: Any) -> RewardShape:
        """The shape called `name` in `PRESETS`, with `fields` in place of its own.

            RewardShape.preset("neg_p", alpha=2.0)

        Raises:
            ValueError: there is no such preset; the message lists those that exist. Or a field is
                out of range.
            TypeError: there is no such field.
        """
        if name not in PRESETS:
            raise ValueError(f"shape preset {name!r} is unknown; use one of {', '.join(PRESETS)}")
        return replace(PRESETS[name], **fields)

    @property
    def is_cross_entropy(self) -> bool:
        """Whether loss and gradient are exactly those of cross-entropy."""
        plain = self.weight_is_one and self.loss_temperature == 1
        return plain and self.lambda_head == 0 and self.lambda_tail == 0

    @property
    def form_of_beta(self) -> str | None:
        """The form in which β acts, "exponent" or "product"; None if β is 0."""
        return self.positive if self.beta != 0 else None

    @property
    def weight_is_one(self) -> bool:
        """Whether the weight w of the target's log-probability is 1."""
        return self.positive in ("exponent", "product") and self.beta == 0


def _require_finite(name: str, value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError(
            f"{name}={value!r} is not a finite number; write it as one, for example 0.1"
        )


# The last five are from other papers: DFT (arXiv 2508.05629), −p^α (2510.00526; at α = 1 it has the
# gradient of DFT), ProFit (2601.09195), EAFT (2601.02151) and GEM (2408.16673). The values of τ, k
# and β are those of the papers' code.
PRESETS = MappingProxyType(
    {
        "cross_entropy": RewardShape(),
        "precision": RewardShape(beta=-0.25),
        "diversity": RewardShape(beta=0.5),
        "precision_product": RewardShape(beta=-0.25, positive="product"),
        "diversity_product": RewardShape(beta=0.5, positive="product"),
        "tail_penalty": RewardShape(lambda_tail=-0.1),
        "head_reward": RewardShape(lambda_head=0.1),
        "dft": RewardShape(positive="power"),
        "neg_p": RewardShape(positive="power"),
        "profit": RewardShape(positive="threshold", threshold=0.1),
        "eaft": RewardShape(positive="entropy", top_k=20),
        "gem": RewardShape(loss_temperature=0.7),
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

    def by_temperature(self) -> tuple[LossOptions, LossOptions | None]:
        """The options of the loss, and those of the metrics if they are of other logits."""
        if self.shape.loss_temperature == 1 or not self.metrics:
            return self, None
        plain = RewardShape(top_k=self.shape.top_k)
        return self._replace(metrics=()), self._replace(shape=plain)
