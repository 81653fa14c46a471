"""Reward-shaped next-token loss (arXiv 2512.22955) of a linear head, without full logits.

It needs torch only.
"""

from .function import METRICS, ShapedLossOutput, shaped_linear_loss
from .shape import PRESETS, RewardShape

__all__ = ["METRICS", "PRESETS", "RewardShape", "ShapedLossOutput", "shaped_linear_loss"]
