"""The audit of a reward: what it gives for answers that were made without solving anything."""
