"""Pre- and mid-training with the reward-shaped next-token loss."""

from shaped_trl.training.config import ShapedConfig
from shaped_trl.training.trainer import ShapedTrainer

__all__ = ["ShapedConfig", "ShapedTrainer"]
