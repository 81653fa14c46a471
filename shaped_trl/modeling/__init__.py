"""The interface between a causal language model and the shaped loss."""

from shaped_trl.modeling.lm_head import ShapedCausalLMOutput, ShapedHead, shape_lm_head

__all__ = ["ShapedCausalLMOutput", "ShapedHead", "shape_lm_head"]
