"""Shape a language model's token distribution before reinforcement learning (arXiv 2512.22955)."""

from typing import TYPE_CHECKING

from shaped_eval.lazy import lazy_exports

__all__ = [
    "AsyncRLVRConfig",
    "AsyncRLVRTrainer",
    "RLVRConfig",
    "RLVRTrainer",
    "RewardShape",
    "ShapedConfig",
    "ShapedTrainer",
    "__version__",
    "shape_lm_head",
    "shaped_linear_loss",
]

if TYPE_CHECKING:  # a `__getattr__` would hide misspelt names from type checkers
    from shaped_kernels import RewardShape, shaped_linear_loss

    from shaped_trl.modeling import shape_lm_head
    from shaped_trl.rlvr import RLVRConfig, RLVRTrainer
    from shaped_trl.rlvr.asynchronous import AsyncRLVRConfig, AsyncRLVRTrainer
    from shaped_trl.training import ShapedConfig, ShapedTrainer

    __version__: str
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "AsyncRLVRConfig": "shaped_trl.rlvr.asynchronous",
            "AsyncRLVRTrainer": "shaped_trl.rlvr.asynchronous",
            "RLVRConfig": "shaped_trl.rlvr",
            "RLVRTrainer": "shaped_trl.rlvr",
            "RewardShape": "shaped_kernels",
            "ShapedConfig": "shaped_trl.training",
            "ShapedTrainer": "shaped_trl.training",
            "shape_lm_head": "shaped_trl.modeling",
            "shaped_linear_loss": "shaped_kernels",
        },
    )
