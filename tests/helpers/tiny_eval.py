"""Sizes of the tiny model and of the made-up benchmark in the sampling tests."""

WORDS = ["<other>", "<eos>", "Question:", "Answer:", "####", *(f"w{i}" for i in range(27))]
CONTEXT_TOKENS = 128
NUM_PROBLEMS = 6
