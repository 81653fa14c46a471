"""Reinforcement learning while vLLM generates, on TRL's experimental AsyncGRPOTrainer.

    the trainer                       the rollout process            the vLLM server
    weights ───────────────────────────────────────────────────────▶ loads them
    loss ◀── Deliveries ◀── queue ◀── RolloutLoop: prompts, ───────▶ generates
                                      grading                ◀────── tokens, log-probabilities

A group is graded when its last completion has arrived, and its report travels through the queue in
front of its completions. Experimental, as TRL's trainer is: names and options may change.
"""

import os

# Experimental here as well: this package says so itself.
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from shaped_trl.rlvr.asynchronous.config import AsyncRLVRConfig
from shaped_trl.rlvr.asynchronous.trainer import AsyncRLVRTrainer

__all__ = ["AsyncRLVRConfig", "AsyncRLVRTrainer"]
