"""Shape a language model's token distribution before reinforcement learning (arXiv 2512.22955)."""
