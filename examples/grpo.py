"""Reinforcement learning with a reward of your own: TRL's `grpo.py` with another trainer.

    python examples/grpo.py --model_name_or_path Qwen/Qwen3-0.6B-Base --dataset_name openai/gsm8k \
        --dataset_config main --max_completion_length 512 --output_dir outputs/grpo

The reward is 1 where the last number of a completion is the answer. `RLVRTrainer` samples until
each group of completions has right and wrong ones (`--dynamic_sampling false` turns this off), and
stops a run without a learning signal. Its options are GRPO's and those of `RLVRConfig`.
"""

import re

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config

from shaped_trl import RLVRConfig, RLVRTrainer
from shaped_trl.training.starting_point import model_init_kwargs

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def last_number(text: str) -> float | None:
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def correct(completions: list[str], gold: list[str], **kwargs) -> list[float]:
    """The columns of the data set, here `gold`, come by name, as in TRL."""
    return [
        float(last_number(completion) == float(answer))
        for completion, answer in zip(completions, gold, strict=True)
    ]


def prompt_and_gold(row: dict[str, str]) -> dict[str, str]:
    """A row of GSM8K, whose solution ends in `#### 1,234`."""
    answer = row["answer"].split("####")[-1].strip().replace(",", "")
    return {"prompt": f"Question: {row['question']}\nAnswer:", "gold": answer}


def main() -> None:
    parser = TrlParser((ScriptArguments, RLVRConfig, ModelConfig))
    script, training, model = parser.parse_args_and_config()
    training.model_init_kwargs = model_init_kwargs(model)
    dataset = load_dataset(script.dataset_name, name=script.dataset_config, split="train")
    trainer = RLVRTrainer(
        model=model.model_name_or_path,
        reward_funcs=correct,
        args=training,
        train_dataset=dataset.map(prompt_and_gold, remove_columns=dataset.column_names),
        peft_config=get_peft_config(model),
    )
    trainer.train()
    trainer.save_model(training.output_dir)


if __name__ == "__main__":
    main()
