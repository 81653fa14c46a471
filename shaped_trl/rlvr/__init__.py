"""Reinforcement learning with verifiable rewards, on TRL's GRPO."""

from shaped_trl.rlvr.auditing.audit import audit_reward
from shaped_trl.rlvr.config import RLVRConfig
from shaped_trl.rlvr.trainer import RLVRTrainer

__all__ = ["RLVRConfig", "RLVRTrainer", "audit_reward"]
