"""Reward-shaped next-token loss (arXiv 2512.22955) of a linear head, without full logits.

It needs torch only.
"""

from .function import METRICS, ShapedLossOutput, shaped_linear_loss
from .log_probs import LogProbs, linear_log_probs
from .shape import PRESETS, RewardShape

__version__ = "0.1.0"  # of shaped-kernels and of shaped-trl: both are released together

__all__ = [
    "METRICS",
    "PRESETS",
    "LogProbs",
    "RewardShape",
    "ShapedLossOutput",
    "__version__",
    "linear_log_probs",
    "shaped_linear_loss",
]
