"""Reward-shaped next-token loss (arXiv 2512.22955) of a linear head, without full logits.

It needs torch only.
"""

from importlib import metadata

from .function import METRICS, ShapedLossOutput, shaped_linear_loss
from .log_probs import LogProbs, linear_log_probs
from .shape import PRESETS, RewardShape

try:
    __version__ = metadata.version("shaped-trl")
except metadata.PackageNotFoundError:  # loaded from the Kernel Hub, which has versions of its own
    __version__ = "0+unknown"

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
