"""The loss in a training loop of your own: no trainer, and of this project shaped_kernels alone.

    python examples/training_loop.py HuggingFaceTB/SmolLM2-135M my_text.txt --steps 100

The loss takes hidden states and the weight of the head, and never makes all logits. It is a sum
over tokens, so divide it by their number. `nll` is the plain negative log-likelihood, which
compares between shapes; the losses of different shapes do not compare.
"""

import argparse
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from shaped_kernels import RewardShape, shaped_linear_loss
from transformers import AutoModelForCausalLM, AutoTokenizer


def batches(ids: torch.Tensor, rows: int, length: int) -> Iterator[torch.Tensor]:
    """Token ids [rows, length + 1] from random places of the text, without end."""
    while True:
        starts = torch.randint(len(ids) - length, (rows,))
        yield torch.stack([ids[start : start + length + 1] for start in starts])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("text", type=Path)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rows", type=int, default=4, help="of a batch")
    parser.add_argument("--length", type=int, default=256, help="of a row, in tokens")
    given = parser.parse_args(argv)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).to(device)
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    ids = tokenizer(given.text.read_text(encoding="utf-8"), return_tensors="pt").input_ids[0]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    shape = RewardShape(beta=-0.25)  # sharpens the distribution; RewardShape() is cross-entropy
    endless = batches(ids, given.rows, given.length)
    for step, batch in enumerate(islice(endless, given.steps)):
        inputs, targets = batch[:, :-1].to(device), batch[:, 1:].flatten().to(device)
        hidden = model.base_model(inputs, use_cache=False).last_hidden_state.flatten(0, 1)
        output = shaped_linear_loss(
            hidden, model.lm_head.weight, targets, shape, metrics=("nll", "entropy")
        )
        (output.loss / len(targets)).backward()
        optimizer.step()
        optimizer.zero_grad()
        nll, entropy = output.nll.mean().item(), output.entropy.mean().item()
        print(f"step {step}: nll {nll:.3f}, entropy {entropy:.3f}")


if __name__ == "__main__":
    main()
