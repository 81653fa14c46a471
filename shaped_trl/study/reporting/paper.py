"""The numbers of the paper (arXiv 2512.22955) that a study measures as well.

They come from descriptions of two versions of the paper, which agree if both have a number. Every
number is an average over the paper's benchmarks at step 1000 of RL, in %, of a single run and
without an interval. The configuration of 20B-A1B, which only the revised version has, is unknown.
"""

from __future__ import annotations

from shaped_kernels import RewardShape

# The paper's shapes. `top_k` is not compared, since a study's vocabulary has another size.
CROSS_ENTROPY, PRECISION, DIVERSITY = RewardShape(), RewardShape(beta=-0.25), RewardShape(beta=0.5)
TAIL_PENALTY, HEAD_REWARD = RewardShape(lambda_tail=-0.1), RewardShape(lambda_head=0.1)

# Pass@64 in the first version; the revised version has the same numbers for these two models.
SCALES = ("4B", "10B-A0.5B")
PASS_AT_64_AFTER_RL = {
    CROSS_ENTROPY: {"4B": 50.99, "10B-A0.5B": 47.52},
    PRECISION: {"4B": 50.43, "10B-A0.5B": 50.75},
    DIVERSITY: {"4B": 50.09, "10B-A0.5B": 49.59},
    TAIL_PENALTY: {"4B": 51.18, "10B-A0.5B": 49.87},
    HEAD_REWARD: {"4B": 50.26, "10B-A0.5B": 49.42},
}


def differences(shape: RewardShape) -> dict[str, float] | None:
    """Scale → the shape's difference from cross-entropy in points of Pass@64, or None.

    None means that the paper does not report the shape. A β in the product form is compared with
    the paper's β too, although the paper's form is, most likely, the exponent.
    """
    keys = ("beta", "lambda_head", "lambda_tail", "alpha", "loss_temperature")
    for reported, values in PASS_AT_64_AFTER_RL.items():
        alike = all(
            getattr(shape, key) == getattr(reported, key) for key in keys
        ) and shape.positive in ("exponent", "product")
        if alike and reported != CROSS_ENTROPY:
            base = PASS_AT_64_AFTER_RL[CROSS_ENTROPY]
            return {scale: values[scale] - base[scale] for scale in SCALES}
    return None
