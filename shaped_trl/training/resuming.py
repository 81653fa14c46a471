"""Resuming a run from its last complete checkpoint, and explaining a full disk."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from shaped_eval.errors import NOT_WRITTEN, UserError
from shaped_eval.untrusted.files import own_folder
from shaped_eval.untrusted.locks import locked_folder
from shaped_eval.untrusted.rows import check_field, is_count, read_object
from shaped_eval.untrusted.sharded import check_sharded
from shaped_eval.untrusted.weights import check_weights
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import CONFIG_NAME

from shaped_trl.hub.pushing import push_finished
from shaped_trl.modeling.saving import cast_saved, kept_in_float32
from shaped_trl.training.engines import check_engine, save_whole_model
from shaped_trl.training.streaming import check_position, position_file
from shaped_trl.training.trainer import ShapedTrainer

# Fields of a model's configuration that must agree for its weights to fit another model.
SAME_MODEL = (
    *(
        "model_type",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    ),
    *("num_key_value_heads", "head_dim", "num_local_experts", "num_experts", "tie_word_embeddings"),
)
# Below this free space, a failed write in torch is reported as a full disk.
TOO_LITTLE_BYTES = 2**20


@contextmanager
def own_output_dir(args: TrainingArguments) -> Iterator[None]:
    """Lock `output_dir` against a second run. The first process does this for all processes.

    Raises:
        UserError: as in `locked_folder`, in all processes; or there is a symbolic link in the
            folder, through which files elsewhere would be written.
    """
    with ExitStack() as held:
        error: UserError | None = None
        if args.process_index == 0:
            try:
                held.enter_context(locked_folder(args.output_dir, "output_dir"))
                _refuse_links(Path(args.output_dir))
            except UserError as refused:
                error = refused
        if args.world_size > 1:
            error = broadcast_object_list([error])[0]
        if error is not None:
            raise error
        yield


def _refuse_links(folder: Path) -> None:
    """The folder may be somebody else's, and libraries write into it by the names of its files."""
    for path in folder.iterdir():
        if path.is_symlink():
            own_folder(folder, path.name)  # raises


@contextmanager
def full_disk_explained(output_dir: str) -> Iterator[None]:
    """Turn errors from a full or read-only disk into one line that says where the run continues.

    Checkpoints before the one that did not fit are complete, and `last_checkpoint` skips incomplete
    ones.

    Raises:
        UserError: `output_dir` can no longer be written.
    """
    try:
        yield
    except Exception as error:
        number = _refused_write(error, output_dir)
        if number is None:
            raise
        checkpoint = last_checkpoint(output_dir)
        full = number in (errno.ENOSPC, errno.EDQUOT)
        reason = "no space left on the device" if full else os.strerror(number)
        raise UserError(
            f"output_dir={output_dir!r}: {reason} while saving; "
            f"{'free some space' if full else 'solve this'}, then the same command continues "
            f"from {checkpoint or 'the start'}"
        ) from error


def _refused_write(error: BaseException, output_dir: str) -> int | None:
    """The error number of a refused write; None if the error is of another kind."""
    if isinstance(error, OSError):
        return error.errno if error.errno in NOT_WRITTEN else None
    # safetensors and torch.save write in compiled code, which raises its own errors.
    system_error = re.search(r"\(os error (\d+)\)", str(error))
    if system_error is not None and int(system_error[1]) in NOT_WRITTEN:
        return int(system_error[1])
    if "No space left on device" in str(error):
        return errno.ENOSPC
    from_torch = any(
        word in str(error) for word in ("PytorchStreamWriter", "inline_container", "iostream error")
    )
    return (
        errno.ENOSPC
        if from_torch and shutil.disk_usage(output_dir).free < TOO_LITTLE_BYTES
        else None
    )


def already_finished(args: TrainingArguments) -> bool:
    """Whether `output_dir` holds the saved model of this run's last step; prints a line if so.

    With `push_to_hub`, a finished run is pushed now, even if it was trained without that option.

    Raises:
        UserError: as in `push_finished`.
    """
    saved = any(Path(args.output_dir).glob("*.safetensors"))
    checkpoint = _checkpoint(args)
    if not saved or checkpoint is None or not _is_last(checkpoint):
        return False
    print(
        f"{args.output_dir}: this run is finished; "
        f"{'pushing it' if args.push_to_hub else 'nothing to do'}"
    )
    if args.push_to_hub:
        push_finished(args)
    return True


def _checkpoint(args: TrainingArguments) -> str | None:
    """The checkpoint named by `resume_from_checkpoint`, or the last one.

    Raises:
        UserError: the named checkpoint is not complete.
    """
    named = args.resume_from_checkpoint
    if named and not _complete(Path(named)):
        raise UserError(
            f"resume_from_checkpoint={named!r} has no complete {TRAINER_STATE_NAME}: name another "
            "checkpoint, or leave it out to use the last complete one"
        )
    return named or last_checkpoint(args.output_dir)


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The last complete checkpoint; one that a killed run left half-written is skipped.

    The Trainer writes its state last. A checkpoint of a stream also needs the positions of all
    processes.
    """
    folders = Path(output_dir).glob("checkpoint-*")
    steps = {
        int(folder.name.partition("-")[2]): folder
        for folder in folders
        if folder.name[11:].isdigit()
    }
    for _, folder in sorted(steps.items(), reverse=True):
        if _complete(folder):
            return str(folder)
    return None


def _complete(folder: Path) -> bool:
    first = position_file(folder, 0)
    try:
        read_object(folder / TRAINER_STATE_NAME, _check_state)
        world = read_object(first, check_position)["world"] if first.is_file() else 0
    except (FileNotFoundError, UserError):  # not written yet, or truncated
        return False
    return all(position_file(folder, rank).is_file() for rank in range(world))


def _check_state(state: dict[str, Any]) -> None:
    for name in ("global_step", "max_steps"):
        check_field(name, state.get(name), is_count, "a number of steps")


def continue_training(trainer: Trainer) -> None:
    """Train from the last checkpoint of `output_dir`, or from the start.

    A checkpoint of the last step is only loaded, since the Trainer would take another step.

    Raises:
        UserError: the checkpoint is of another model or engine, is damaged, or holds something
            other than the state of a training.
    """
    checkpoint = _checkpoint(trainer.args)
    if checkpoint is not None:
        check_same_model(trainer, checkpoint)
        check_weights(checkpoint, "checkpoint", needed=False)
        check_engine(trainer, checkpoint)
        check_sharded(checkpoint)
    if checkpoint is not None and _is_last(checkpoint):
        # what `train` does first; the Trainer has no public method that only loads
        trainer._load_from_checkpoint(checkpoint)
        trainer.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    else:
        if checkpoint is not None and trainer.is_world_process_zero():
            print(f"continuing from {checkpoint}")
        trainer.train(resume_from_checkpoint=checkpoint)


def save_for_good(trainer: Any) -> None:
    """Save the model and its card to `output_dir`; then push them if `push_to_hub` is set.

    Raises:
        UserError: the Hub did not accept them. They are saved by then.
    """
    save_whole_model(trainer)
    if trainer.is_world_process_zero() and trainer.args.save_dtype != "auto":
        _cast(trainer.accelerator.unwrap_model(trainer.model), trainer.args)
    trainer.accelerator.wait_for_everyone()
    trainer.create_model_card()
    if trainer.args.push_to_hub:
        trainer.push_saved()


def _cast(model: Any, args: Any) -> None:
    """Convert the saved weights to `save_dtype`, and say so."""
    kept = kept_in_float32(model, args.save_dtype)
    if before := cast_saved(args.output_dir, args.save_dtype, kept):
        print(
            f"saved in {args.save_dtype}; the weights were trained in {before}, which "
            f"--save_dtype {before} keeps"
        )


def check_same_model(trainer: Trainer, checkpoint: str) -> None:
    """Check that a checkpoint is of this run's model, since the Trainer would load what fits.

    A checkpoint of adapters has no configuration and is not checked.

    Raises:
        UserError: a field of `SAME_MODEL` differs.
    """
    path = Path(checkpoint) / CONFIG_NAME
    if not path.is_file():
        return
    saved = read_object(path)
    model = trainer.accelerator.unwrap_model(trainer.model)
    own = json.loads(model.config.to_json_string(use_diff=False))
    for name in SAME_MODEL:
        if saved.get(name, own.get(name)) != own.get(name):
            raise UserError(
                f"checkpoint {checkpoint!r} has {name}={saved[name]!r}, but the model of this run "
                "has "
                f"{own.get(name)!r}: a run continues from its own checkpoints; to start from other "
                "weights give --model_name_or_path"
            )


def _is_last(checkpoint: str) -> bool:
    state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    return state.global_step >= state.max_steps


def trained_and_evaluated(trainer: ShapedTrainer) -> bool:
    """Whether the log already has the evaluation of the last step."""
    last = trainer.state.global_step
    return any("eval_loss" in row and row["step"] == last for row in trainer.state.log_history)
