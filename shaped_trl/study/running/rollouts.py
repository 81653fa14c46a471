"""The entropy of a policy on its own rollouts, as a function of its temperature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from shaped_eval.errors import UserError
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel

from shaped_trl.data.prompts import rl_prompts
from shaped_trl.options import rlvr_options
from shaped_trl.recipes import Parser

NUM_PROMPTS, PER_PROMPT, BATCH = 256, 16, 512  # the number of rollouts, and how many at a time


class Rollouts:
    """Rollouts for the prompts of an RL run, under its limits of length and of sampling.

    The same seed gives the same random numbers for every model and temperature, so that differences
    between entropies have less noise than the entropies.
    """

    def __init__(self, recipe: str, flags: Sequence[str], tokenizer_of: Path):
        """Read the prompts.

        Args:
            recipe: of the RL run.
            flags: the options on top of it.
            tokenizer_of: the folder of a model with the run's tokenizer.

        Raises:
            UserError: the recipe or the options are not those of `shaped-trl rlvr`.
        """
        parser = Parser("rlvr", rlvr_options())
        (prompts, self.args, *_), _ = parser.resolve(recipe, list(flags))
        self.tokenizer = AutoTokenizer.from_pretrained(tokenizer_of, padding_side="left")
        rows = rl_prompts(prompts, self.args.seed, self.tokenizer).train
        self.prompts = rows.select(range(min(NUM_PROMPTS, len(rows))))["prompt"]
        if not isinstance(self.prompts[0], str):
            raise UserError("matched_on: rollouts of chats are not implemented; match on held_out")

    def entropy(self, folder: Path, temperature: float) -> float:
        """The mean entropy (nats) of softmax(z/T) over the tokens that it samples.

        The token that ends a completion counts, and what follows it does not.
        """
        model = AutoModelForCausalLM.from_pretrained(folder).to(_device()).eval()
        torch.manual_seed(self.args.seed)
        repeated = [prompt for prompt in self.prompts for _ in range(PER_PROMPT)]
        total = count = 0.0
        for start in range(0, len(repeated), BATCH):
            entropies, kept = self._batch(model, repeated[start : start + BATCH], temperature)
            total += float(entropies[kept].sum())
            count += int(kept.sum())
        return total / count

    @torch.no_grad()
    def _batch(
        self, model: PreTrainedModel, prompts: Sequence[str], temperature: float
    ) -> tuple[Tensor, Tensor]:
        """Entropies [B, L] of the tokens of completions, and which of these exist [B, L]."""
        given = self.tokenizer(list(prompts), return_tensors="pt", padding=True).to(model.device)
        given = {key: given[key] for key in ("input_ids", "attention_mask")}
        config = GenerationConfig(
            do_sample=True,
            temperature=temperature,
            top_p=self.args.top_p,
            top_k=self.args.top_k,
            min_p=self.args.min_p,
            max_new_tokens=self.args.max_completion_length,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        ids = model.generate(**given, generation_config=config)
        length = given["input_ids"].shape[1]
        completions = ids[:, length:]
        ended = (completions == self.tokenizer.eos_token_id).int()
        kept = ended.cumsum(1) - ended == 0
        mask = torch.cat([given["attention_mask"], kept.long()], dim=1)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        output = model(input_ids=ids, attention_mask=mask, position_ids=places)
        log_probs = (output.logits[:, length - 1 : -1].float() / temperature).log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1), kept


def _device() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
