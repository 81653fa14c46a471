"""The numbers that the paper (arXiv 2512.22955) gives for what a study measures too."""

from __future__ import annotations

from shaped_kernels import RewardShape

SCALES = ("4B", "10B-A0.5B")
# Pass@64 at step 1000 of RL, %, average over its benchmarks; one run each, no intervals.
CROSS_ENTROPY = {"4B": 50.99, "10B-A0.5B": 47.52}
PASS_AT_64_AFTER_RL = {
    RewardShape(beta=-0.25): {"4B": 50.43, "10B-A0.5B": 50.75},
    RewardShape(beta=0.5): {"4B": 50.09, "10B-A0.5B": 49.59},
    RewardShape(lambda_tail=-0.1): {"4B": 51.18, "10B-A0.5B": 49.87},
    RewardShape(lambda_head=0.1): {"4B": 50.26, "10B-A0.5B": 49.42},
}


def differences(shape: RewardShape) -> dict[str, float] | None:
    """Scale → the shape's difference to cross-entropy in points; None for a shape that the paper does not report.

    The size of the head (`top_k`) is compared only through which entries it names: a study's vocabulary has another
    size than the paper's.
    """
    for reported, values in PASS_AT_64_AFTER_RL.items():
        keys = ("beta", "lambda_head", "lambda_tail", "positive", "alpha")
        if all(getattr(shape, key) == getattr(reported, key) for key in keys):
            return {scale: values[scale] - CROSS_ENTROPY[scale] for scale in SCALES}
    return None
