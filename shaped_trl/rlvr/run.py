"""`shaped-trl rlvr`: one resolved recipe → prompts, verifier, model → RLVRTrainer → a checkpoint."""

from __future__ import annotations

from transformers import AutoTokenizer
from trl import ModelConfig, get_peft_config

from shaped_trl.data.decontamination import ReportCallback
from shaped_trl.data.prompts import PromptArguments, check_prompts, rl_prompts
from shaped_trl.rlvr.config import RLVRConfig
from shaped_trl.rlvr.rewards import VerdictReward
from shaped_trl.rlvr.trainer import RLVRTrainer
from shaped_trl.training.evaluation import BenchmarkArguments, add_benchmarks
from shaped_trl.training.resuming import already_finished, continue_training, full_disk_explained
from shaped_trl.training.run import checkpoint_config, model_init_kwargs, model_source


def rlvr(
    prompts: PromptArguments,
    args: RLVRConfig,
    model_args: ModelConfig,
    benchmarks: BenchmarkArguments | None = None,
) -> None:
    """Train with verifiable rewards and save the model to `output_dir`.

    A run that finds its own checkpoint in `output_dir` continues from it.
    """
    if already_finished(args):
        return
    source = model_source(model_args)
    check_prompts(prompts)
    tokenizer = None
    if prompts.max_prompt_length is not None or prompts.chat:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=model_args.model_revision)
    data = rl_prompts(prompts, args.seed, tokenizer, args.chat_template_kwargs)
    checkpoint_config(model_args)
    args.model_init_kwargs = {**model_init_kwargs(model_args), **(args.model_init_kwargs or {})}
    trainer = RLVRTrainer(
        source,
        VerdictReward(data.grader),
        args,
        train_dataset=data.train,
        eval_dataset=data.heldout,
        peft_config=get_peft_config(model_args),
        callbacks=[ReportCallback(data.overlap, data.dropped)] if data.overlap is not None else None,
    )
    add_benchmarks(trainer, benchmarks, prompts.hub_mirror)
    with full_disk_explained(args.output_dir):
        continue_training(trainer)
        trainer.save_model()
        trainer.create_model_card(dataset_name=prompts.dataset_name)
    if args.push_to_hub:
        trainer.push_to_hub(dataset_name=prompts.dataset_name)
