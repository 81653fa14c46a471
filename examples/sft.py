"""Continue the training of a model with a reward shape: TRL's `sft.py` with another trainer.

    python examples/sft.py --model_name_or_path HuggingFaceTB/SmolLM2-135M \
        --dataset_name trl-lib/Capybara --beta -0.25 --learning_rate 2e-5 --output_dir outputs/sft

The options are those of TRL's script, and the shape's: `--beta`, `--lambda_head`, `--lambda_tail`,
`--top_k` and others. `--use_peft` trains an adapter, and `--push_to_hub` sends the model with its
card. Several devices: `accelerate launch examples/sft.py ...`.
"""

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, TrlParser, get_peft_config

from shaped_trl import ShapedConfig, ShapedTrainer
from shaped_trl.training.starting_point import model_init_kwargs


def main() -> None:
    parser = TrlParser((ScriptArguments, ShapedConfig, ModelConfig))
    script, training, model = parser.parse_args_and_config()
    training.model_init_kwargs = model_init_kwargs(model)
    dataset = load_dataset(script.dataset_name, name=script.dataset_config)
    evaluates = training.eval_strategy != "no"
    trainer = ShapedTrainer(
        model=model.model_name_or_path,
        args=training,
        train_dataset=dataset[script.dataset_train_split],
        eval_dataset=dataset[script.dataset_test_split] if evaluates else None,
        peft_config=get_peft_config(model),
    )
    trainer.train()
    trainer.save_model(training.output_dir)
    if training.push_to_hub:
        trainer.push_to_hub(dataset_name=script.dataset_name)


if __name__ == "__main__":
    main()
