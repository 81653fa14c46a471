"""A run that goes on where it stopped: its last whole checkpoint, what must agree, and what a full
disk does."""

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
from shaped_eval.untrusted.locks import locked_folder
from shaped_eval.untrusted.rows import check_field, is_count, read_object
from shaped_eval.untrusted.weights import check_weights
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import CONFIG_NAME

from shaped_trl.hub.pushing import push_finished
from shaped_trl.training.engines import check_engine, save_whole_model
from shaped_trl.training.streaming import check_position, position_file
from shaped_trl.training.trainer import ShapedTrainer

# what of two configurations must agree for weights of one to be those of the other
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
# free space with which torch's failure to write is taken for a full disk
TOO_LITTLE_BYTES = 2**20


@contextmanager
def own_output_dir(args: TrainingArguments) -> Iterator[None]:
    """Hold `output_dir` against a second run: the first process does, and all stop where it cannot.

    Raises:
        UserError: as `locked_folder` does.
    """
    with ExitStack() as held:
        error: UserError | None = None
        if args.process_index == 0:
            try:
                held.enter_context(locked_folder(args.output_dir, "output_dir"))
            except UserError as refused:
                error = refused
        if args.world_size > 1:
            error = broadcast_object_list([error])[0]
        if error is not None:
            raise error
        yield


@contextmanager
def full_disk_explained(output_dir: str) -> Iterator[None]:
    """Turn what a full disk, or one that became read-only, raises within into one line that says
    where the run will go on.

    Checkpoints before the one that did not fit are whole, and `last_checkpoint` passes over a part
    of one.

    Raises:
        UserError: `output_dir` cannot be written any more.
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
            f"output_dir={output_dir!r}: {reason} while saving; {'free some' if full else 'mend that'}, then the same "
            f"command continues from {checkpoint or 'the start'}"
        ) from error


def _refused_write(error: BaseException, output_dir: str) -> int | None:
    """The system's number of what kept a file from being written; None where an error is another
    one."""
    if isinstance(error, OSError):
        return error.errno if error.errno in NOT_WRITTEN else None
    # safetensors and torch.save write in compiled code, and raise errors of their own
    said = re.search(r"\(os error (\d+)\)", str(error))
    if said is not None and int(said[1]) in NOT_WRITTEN:
        return int(said[1])
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
    """Whether `output_dir` holds the saved model of this run's last step; says so.

    It is sent to the Hub if that is asked for, whatever asked for it before.

    Raises:
        UserError: as `push_finished` does.
    """
    saved = any(Path(args.output_dir).glob("*.safetensors"))
    checkpoint = _checkpoint(args)
    if not saved or checkpoint is None or not _is_last(checkpoint):
        return False
    print(
        f"{args.output_dir}: this run is finished; {'pushing it' if args.push_to_hub else 'nothing to do'}"
    )
    if args.push_to_hub:
        push_finished(args)
    return True


def _checkpoint(args: TrainingArguments) -> str | None:
    """The checkpoint that is named, or the last one.

    Raises:
        UserError: the one that is named is not whole.
    """
    named = args.resume_from_checkpoint
    if named and not _complete(Path(named)):
        raise UserError(
            f"resume_from_checkpoint={named!r} has no whole {TRAINER_STATE_NAME}: name another, or leave it "
            "out for the last one that is whole"
        )
    return named or last_checkpoint(args.output_dir)


def last_checkpoint(output_dir: str | Path) -> str | None:
    """The last checkpoint that was written to its end; one that a killed run left half-written is
    passed over.

    The Trainer writes its state last. A stream's positions are there for every process or it is not
    complete.
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
    except (FileNotFoundError, UserError):  # not there yet, or cut off
        return False
    return all(position_file(folder, rank).is_file() for rank in range(world))


def _check_state(state: dict[str, Any]) -> None:
    for name in ("global_step", "max_steps"):
        check_field(name, state.get(name), is_count, "a number of steps")


def continue_training(trainer: Trainer) -> None:
    """Train from the last checkpoint of `output_dir`, or from the start.

    A checkpoint of the last step is only loaded: the Trainer would take one step more.
    """
    checkpoint = _checkpoint(trainer.args)
    if checkpoint is not None:
        check_same_model(trainer, checkpoint)
        check_weights(checkpoint, "checkpoint", needed=False)
        check_engine(trainer, checkpoint)
    if checkpoint is not None and _is_last(checkpoint):
        # what `train` does first; the Trainer has no public method that only loads
        trainer._load_from_checkpoint(checkpoint)
        trainer.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    else:
        if checkpoint is not None and trainer.is_world_process_zero():
            print(f"continuing from {checkpoint}")
        trainer.train(resume_from_checkpoint=checkpoint)


def save_for_good(trainer: Any) -> None:
    """Write the model and its card to `output_dir`; then send them, where that is asked for.

    Raises:
        UserError: the Hub did not take them; they are saved by then.
    """
    save_whole_model(trainer)
    trainer.create_model_card()
    if trainer.args.push_to_hub:
        trainer.push_saved()


def check_same_model(trainer: Trainer, checkpoint: str) -> None:
    """Raise UserError where a checkpoint is of another model than the run's: the Trainer would load
    what fits.

    A checkpoint of adapters has no configuration and is not checked.
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
                f"checkpoint {checkpoint!r} has {name}={saved[name]!r}, the model of this run {own.get(name)!r}: a "
                "run continues from its own checkpoints; to start from other weights give --model_name_or_path"
            )


def _is_last(checkpoint: str) -> bool:
    state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    return state.global_step >= state.max_steps


def trained_and_evaluated(trainer: ShapedTrainer) -> bool:
    """Whether the last step's evaluation already stands in the log."""
    last = trainer.state.global_step
    return any("eval_loss" in row and row["step"] == last for row in trainer.state.log_history)
