"""The options on a help page: their headings and their order, the most needed ones first.

An option of our own that no group names comes last in the group that names its class.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Group:
    """Options under one heading.

    Args:
        heading: what stands above them.
        names: the options, in this order.
        classes: option classes whose remaining fields follow.
    """

    heading: str
    names: str
    classes: tuple[str, ...] = ()


_CHECKPOINTS = "save_steps save_total_limit save_dtype logging_steps report_to"
_OPTIMISATION = (
    "max_steps num_train_epochs learning_rate lr_scheduler_type warmup_steps "
    "per_device_train_batch_size gradient_accumulation_steps"
)
_PRECISION = "weight_decay max_grad_norm optim bf16 gradient_checkpointing use_liger_kernel seed"
_PEFT = "use_peft lora_r lora_alpha lora_target_modules"
_MODEL = "dtype attn_implementation model_revision trust_remote_code"
_HUB = "push_to_hub hub_model_id hub_private_repo hub_strategy hub_license dataset_license"
_BAD_LOSSES = Group("Losses that go wrong", "", ("WatchArguments",))

TRAIN = (
    Group("Start here", "config shape model_name_or_path dataset_name output_dir dry_run"),
    Group(
        "The shape of the loss",
        "beta lambda_tail lambda_head top_k positive alpha threshold loss_temperature "
        "shape_schedule z_loss loss_impl",
        ("ShapedConfig",),
    ),
    Group(
        "Data",
        "dataset_config dataset_train_split text_template prompt_template completion_template "
        "assistant_only_loss prompt_loss_weight max_length packing train_tokens mixture streaming "
        "decontaminate hub_mirror",
        ("SourceArguments", "CorpusArguments"),
    ),
    Group(
        "Model and tokenizer",
        f"{_PEFT} {_MODEL} from_scratch tokenizer_name_or_path tokenizer_kind "
        "tokenizer_vocab_size router_bias_rate",
    ),
    Group("Optimisation", f"{_OPTIMISATION} {_PRECISION}"),
    _BAD_LOSSES,
    Group("Checkpoints and logs", _CHECKPOINTS),
    Group(
        "Evaluation",
        "dataset_test_split num_heldout max_eval_samples eval_strategy eval_steps eval_benchmarks",
        ("BenchmarkArguments",),
    ),
    Group("Devices", "num_processes accelerate_config devices use_cpu", ("LaunchArguments",)),
    Group("Hub", _HUB),
)

RLVR = (
    Group("Start here", "config model_name_or_path dataset_name grader output_dir dry_run"),
    Group(
        "Prompts",
        "dataset_config dataset_train_split prompt_template gold_template chat system_prompt "
        "max_prompt_length num_prompts decontaminate hub_mirror",
        ("SourceArguments", "PromptArguments"),
    ),
    Group(
        "Reward", "reward_funcs reward_weights format_pattern overlong_buffer", ("RewardArguments",)
    ),
    Group("Audit of the reward", "audit_reward audit_threshold audit_prompts"),
    Group(
        "Sampling",
        "num_generations max_completion_length completion_length_schedule temperature "
        "dynamic_sampling max_sampling_rounds max_sampling_tokens keep_leftover_groups "
        "prompt_weighting retire_all_right retire_all_wrong revisit_retired_after on_no_signal "
        "no_signal_patience "
        "use_vllm vllm_mode vllm_max_model_length vllm_gpu_memory_utilization "
        "vllm_tensor_parallel_size",
        ("RLVRConfig", "RLVRArguments", "ModeArguments"),
    ),
    Group(
        "Optimisation",
        f"{_OPTIMISATION} steps_per_generation num_iterations epsilon epsilon_high beta loss_type "
        f"{_PRECISION}",
    ),
    _BAD_LOSSES,
    Group("Model", f"{_PEFT} {_MODEL}"),
    Group("Checkpoints and logs", f"{_CHECKPOINTS} log_completions"),
    Group(
        "Evaluation",
        "dataset_test_split num_heldout eval_strategy eval_steps eval_benchmarks",
        ("BenchmarkArguments",),
    ),
    Group("Devices", "num_processes accelerate_config use_cpu", ("LaunchArguments",)),
    Group("Hub", _HUB),
)

RLVR_ASYNC = (
    *RLVR[:2],
    Group("Reward", "reward_funcs format_pattern overlong_buffer", ("RewardArguments",)),
    RLVR[3],
    Group(
        "Rollouts",
        "asynchronous serve vllm_server_base_url weight_transfer weight_sync_steps max_staleness "
        "max_inflight_tasks max_logprob_difference",
        ("AsyncRLVRConfig",),
    ),
    Group(
        "Sampling",
        "num_generations max_completion_length completion_length_schedule temperature "
        "dynamic_sampling prompt_weighting retire_all_right retire_all_wrong "
        "revisit_retired_after on_no_signal no_signal_patience",
        ("RLVRArguments",),
    ),
    Group("Optimisation", f"{_OPTIMISATION} token_budget epsilon epsilon_high {_PRECISION}"),
    _BAD_LOSSES,
    Group("Model", f"{_PEFT} dtype model_revision trust_remote_code"),
    *RLVR[8:9],
    Group("Evaluation", "eval_benchmarks", ("BenchmarkArguments",)),
    *RLVR[10:],
)

SAMPLE = (
    Group("Start here", "model benchmarks suite n out config"),
    Group("Sampling", "temperature top_p max_new_tokens limit seed", ("SampleConfig",)),
    Group("Prompts", "chat_template shots since model_cutoff show hub_mirror"),
    Group("Model", "dtype revision trust_remote_code"),
    Group(
        "Backend",
        "backend batch_size continuous_batching vllm_tensor_parallel_size vllm_max_model_len "
        "vllm_gpu_memory_utilization vllm_args tensor_parallel_size base_url concurrency",
    ),
)

EVAL = (
    Group("Start here", "model benchmarks suite n out config dry_run"),
    SAMPLE[1],
    Group("Prompts", "chat_template shots since model_cutoff hub_mirror"),
    *SAMPLE[3:],
    Group("Grading and report", "pass_at keep_reasoning", ("GradeOptions",)),
    Group("Checkpoints of a training run", "", ("CheckpointOptions",)),
    Group("Hub", "", ("PublishOptions",)),
)

GROUPS = {"train": TRAIN, "rlvr": RLVR, "rlvr-async": RLVR_ASYNC, "eval": EVAL, "sample": SAMPLE}

# Shorter than what TRL and transformers say about their own options.
INHERITED = {
    "assistant_only_loss": "Train on the assistant's messages of a chat, and on nothing else.",
    "attn_implementation": "Implementation of attention: sdpa, eager or flash_attention_2. By "
    "default transformers chooses it.",
    "beta": "Coefficient of the KL penalty. With 0 no reference model is loaded. It is not the "
    "β of the shape, which `train` has.",
    "bf16": "Compute in bfloat16. By default on with an accelerator, and off on a CPU.",
    "dtype": "Type in which the weights are loaded.",
    "epsilon": "Lower clipping bound of the probability ratio.",
    "eval_steps": "Number of optimizer steps between two evaluations on held-out rows. By "
    "default it is logging_steps.",
    "eval_strategy": "When to evaluate on held-out rows: no, steps or epoch. Without this option, "
    "train evaluates once, at the end, and rlvr does not.",
    "gradient_accumulation_steps": "Number of micro-batches of an optimizer step on each device.",
    "gradient_checkpointing": "Recompute activations in the backward pass, which saves memory.",
    "hub_model_id": "Repository to push to, such as me/my-model. By default it has the name of "
    "output_dir.",
    "hub_private_repo": "Make the repository private when it is created. By default it is public, "
    "unless your organization's default is private.",
    "hub_strategy": "When to push: end, every_save, checkpoint or all_checkpoints.",
    "learning_rate": "Peak learning rate.",
    "log_completions": "Print some completions with their rewards at every logging step.",
    "logging_steps": "Number of optimizer steps between two rows of the log.",
    "lora_alpha": "Scale of LoRA: the update is multiplied by lora_alpha / lora_r.",
    "lora_r": "Rank of LoRA.",
    "lora_target_modules": "Names of the modules that get LoRA, or all-linear. By default PEFT "
    "chooses them by the type of the model.",
    "loss_type": "Aggregation of the token losses: dapo, grpo, dr_grpo, bnpo, cispo, and others.",
    "lr_scheduler_type": "Schedule of the learning rate: linear, cosine, constant, and others.",
    "max_completion_length": "Maximum length of a completion in tokens.",
    "max_grad_norm": "Clip the norm of the gradient to this value. 0 turns clipping off.",
    "max_inflight_tasks": "Most completions under way at the server. By default (-1) as many as "
    "max_staleness optimizer steps train on.",
    "max_length": "Maximum length of a training sequence in tokens.",
    "max_staleness": "Most versions between the weights that began a completion and those that "
    "train on it. Older completions are dropped.",
    "max_steps": "Number of optimizer steps. With -1, num_train_epochs decides.",
    "model_name_or_path": "Model to start from: an id on the Hub, or the folder of a saved model.",
    "model_revision": "Branch, tag or commit of the model on the Hub.",
    "num_generations": "Number of completions in a group: those of one prompt.",
    "num_iterations": "Number of passes over each generation batch.",
    "num_train_epochs": "Number of passes over the data. In rlvr with dynamic_sampling it only "
    "sets the number of optimizer steps.",
    "optim": "Optimizer: adamw_torch_fused, adamw_8bit, adafactor, and others.",
    "output_dir": "Folder for checkpoints, logs and the final model. By default trainer_output, or "
    "what the recipe says.",
    "packing": "Pack several documents into each training sequence.",
    "per_device_train_batch_size": "Number of sequences of a micro-batch on each device.",
    "push_to_hub": "Push the model, its card and its logs to the Hub.",
    "report_to": "Experiment trackers to log to: none, trackio, wandb, tensorboard, and others.",
    "reward_weights": "Weight of each reward, separated by spaces. By default every weight is 1.",
    "save_steps": "Number of optimizer steps between two checkpoints.",
    "save_total_limit": "Keep this many checkpoints, and delete older ones. By default all stay.",
    "seed": "Seed of the run.",
    "steps_per_generation": "Number of micro-batches that a generation batch is divided into. By "
    "default it is gradient_accumulation_steps, so that every optimizer step samples anew.",
    "temperature": "Sampling temperature.",
    "token_budget": "Most tokens that one device trains on at once. By default as many as the "
    "server's longest sequence has; 0 takes per_device_train_batch_size completions instead.",
    "trust_remote_code": "Run Python code from the model's repository.",
    "use_cpu": "Train on the CPU even if there is an accelerator.",
    "use_liger_kernel": "Use Liger's kernels for the layers of the model. Needs a GPU.",
    "use_peft": "Train a LoRA adapter instead of all weights.",
    "use_vllm": "Generate completions with vLLM.",
    "vllm_mode": "Where vLLM runs: colocate (on the training GPUs) or server (on others).",
    "vllm_max_model_length": (
        "Colocated vLLM: longest prompt and completion together, in tokens. By default the model's "
        "context."
    ),
    "vllm_gpu_memory_utilization": "Colocated vLLM: share of a GPU's memory that it may use.",
    "vllm_server_base_url": "Address of the vLLM server.",
    "vllm_tensor_parallel_size": "Colocated vLLM: number of GPUs that hold one copy of the model.",
    "warmup_steps": "Number of optimizer steps of linear warmup. A value below 1 is a share of the "
    "run.",
    "weight_decay": "Weight decay of the optimizer.",
    "weight_sync_steps": "Number of optimizer steps between two transfers of the weights.",
}
