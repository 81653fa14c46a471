"""A backend of your own: what does guessing score?

    cd examples
    shaped-trl eval --backend own_backend:Guesses --model guesses --benchmarks gsm8k --n 4 --out RUN

A backend is a class that takes the run's `SampleConfig` and turns requests into completions, as
`shaped_eval.backends.Backend` describes: by a model, a server, or, here, by a random number.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from shaped_eval.backends import Completion, Request
from shaped_eval.backends.base import Completions
from shaped_eval.config import SampleConfig


class Guesses:
    """Answers each prompt with a whole number from 0 to 99."""

    identity = "guesses from 0 to 99"
    device = "cpu"
    repeatability = "The same requests give the same completions."
    together = False  # requests are independent, and each is one prompt

    def __init__(self, config: SampleConfig) -> None:
        self.config = config

    def prompt_tokens(self, prompt: str) -> int | None:
        return None  # nothing here has tokens

    def context_tokens(self) -> int | None:
        return None

    def prepare(self) -> None:
        """Nothing to load."""

    def complete(self, requests: Sequence[Request]) -> Completions:
        for index, request in enumerate(requests):
            rng = random.Random(request.seed)
            count = len(request.prompts) * request.num_samples
            texts = [f"The answer is {rng.randrange(100)}." for _ in range(count)]
            yield index, [Completion(text, "stop", tokens=1) for text in texts]
