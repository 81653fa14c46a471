"""Pushing a run's folder to the Hub.

Both trainers, and the command on a finished run, push the same: the files of `output_dir` that
`MODEL_FILES` and `RUN_FILES` name, and no other. Of what a run writes, this leaves out
`training_args.bin` (a pickle with the token and the folders of this machine), TensorBoard's files,
completions, and the rows of data that a decontamination dropped. A file that is a symbolic link,
or that is reached through one, is left out too: it may lead to anything on this machine.

This machine's paths are removed from texts. The files are first prepared in a folder of their own,
with links to the weights, so that training can continue during the upload.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from shaped_eval.errors import UserError
from shaped_eval.hub.errors import hub_errors, hub_reason
from shaped_eval.untrusted.rows import read_object
from transformers import TrainingArguments
from transformers.trainer_utils import HubStrategy, SaveStrategy
from transformers.utils.hub import PushInProgress

from shaped_trl.hub.cards import CARD, public_card
from shaped_trl.hub.private import adapter_base, private_names, public_recipe, without_paths
from shaped_trl.recipes import RESOLVED

logger = logging.getLogger(__name__)
STAGE = "_push-"
# What `save_pretrained` writes, of a model or of adapters, and of tokenizers of all kinds.
MODEL_FILES = (
    *("config.json", "generation_config.json", "adapter_config.json"),
    *("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"),
    *("adapter_model.safetensors", "adapter_model-*-of-*.safetensors"),
    "adapter_model.safetensors.index.json",
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model"),
    *("sentencepiece.bpe.model", "sentencepiece.model", "spm.model", "spm_char.model", "dict.txt"),
    *("tekken.json", "tiktoken.model", "ice_text.model", "emoji.json", "byte_maps.json"),
    *("entity_vocab.json", "vocab-src.json", "vocab-tgt.json", "target_vocab.json"),
    *("chat_template.jinja", "additional_chat_templates/*.jinja"),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
)
# What is added, from the folder itself, where a configuration says that the model or the tokenizer
# needs code of its own.
CODE_FILES = ("*.py",)
CONFIGURATIONS = ("config.json", "tokenizer_config.json")
# The card, the recipe, the logs with their pictures, and the reports. `shaped-trl report` writes
# .eval_results.
RUN_FILES = (
    *(CARD, RESOLVED, "decontamination/report.json", ".eval_results/*.yaml"),
    *("train_log.jsonl", "train_log.png", "rl_log.jsonl", "rl_log.png"),
)
# What a run continues from, besides the model: the Trainer's files, FSDP2's and DeepSpeed's.
RESUME_FILES = (
    *("trainer_state.json", "stream-*.json", "optimizer.pt", "scheduler.pt", "scaler.pt"),
    *("rng_state.pth", "rng_state_*.pth", "optimizer.bin", "pytorch_model_fsdp.bin"),
    *("pytorch_model_fsdp_0/*.distcp", "pytorch_model_fsdp_0/.metadata"),
    *("optimizer_0/*.distcp", "optimizer_0/.metadata", "latest", "global_step*/*.pt"),
)
TEXT_FILES = {".md", ".yaml", ".json", ".jsonl"}


def create_repository(
    args: TrainingArguments, token: str | None = None, private: bool | None = None
) -> str:
    """Create the repository of `args` if it does not exist, and return its id.

    Raises:
        UserError: the Hub refuses, or cannot be reached.
    """
    api = HfApi(library_name="shaped-trl")
    name = args.hub_model_id or Path(args.output_dir).absolute().name
    private = private if private is not None else args.hub_private_repo
    try:
        return api.create_repo(
            name, token=token or args.hub_token, private=private, exist_ok=True
        ).repo_id
    except hub_errors() as error:
        raise UserError(
            f"hub_model_id={name!r}: {hub_reason(error, api.endpoint)}; then repeat the command, "
            "or leave push_to_hub out: what is saved in output_dir stays"
        ) from error


def push_finished(args: TrainingArguments) -> None:
    """Push the saved model of `output_dir`. If the Hub already has it, nothing changes there."""
    if args.process_index == 0:
        _clear(args.output_dir)
        push_folder(args, create_repository(args), "End of training")


def _clear(output_dir: str) -> None:
    """Remove the folders that a killed process had prepared."""
    for stage in Path(output_dir).glob(f"{STAGE}*"):
        shutil.rmtree(stage)


def push_folder(
    args: TrainingArguments,
    repository: str,
    message: str,
    token: str | None = None,
    revision: str | None = None,
) -> Any:
    """Push `output_dir` in one commit, and return what the Hub's client returns.

    Raises:
        UserError: the push failed. `output_dir` is unchanged.
    """
    api = HfApi(library_name="shaped-trl")
    stage = lay_out(args, repository)
    try:
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=stage,
            commit_message=message,
            token=token or args.hub_token,
            revision=revision or args.hub_revision,
        )
    except hub_errors() as error:
        raise UserError(
            f"hub_model_id={repository!r}: {hub_reason(error, api.endpoint)}; the model is saved "
            f"in {args.output_dir}: {_how_to_push_again(args, repository)}"
        ) from error
    finally:
        shutil.rmtree(stage)
    print(f"pushed: {api.endpoint}/{repository}")
    base = adapter_base(Path(args.output_dir))
    if base is not None and Path(base).is_dir():
        logger.warning(
            "its base model %r is a local folder: push that model too, since others need it", base
        )
    return commit


def _how_to_push_again(args: TrainingArguments, repository: str) -> str:
    if args.save_strategy != SaveStrategy.NO:
        return "run the same command again to push it"
    return (
        "without a checkpoint the same command would train again; "
        f"`hf upload {repository} DIR` pushes a folder"
    )


def lay_out(
    args: Any, repository: str, checkpoint: Path | None = None, whole: str | None = None
) -> Path:
    """Prepare what the repository gets in a new folder within `output_dir`, and return it.

    Args:
        args: the arguments of the run. Its `output_dir` has card, logs and recipe, and without
            `checkpoint` also the model.
        repository: the id of the repository, for the card's example.
        checkpoint: the checkpoint to take the model from.
        whole: the folder of the repository for the complete checkpoint, if it is pushed as well.
    """
    output_dir = Path(args.output_dir)
    stage = Path(tempfile.mkdtemp(prefix=STAGE, dir=output_dir))
    names = private_names(output_dir)
    for path in [*_model_files(output_dir), *_files(output_dir, RUN_FILES)]:
        _put(path, stage / path.relative_to(output_dir), names)
    if checkpoint is not None and not checkpoint.is_symlink():
        model = list(_model_files(checkpoint))
        for path in model:
            _put(path, stage / path.relative_to(checkpoint), names)
        for path in [*model, *_files(checkpoint, RESUME_FILES)] if whole else ():
            _put(path, stage / str(whole) / path.relative_to(checkpoint), names)
    if (stage / CARD).is_file():
        text = (stage / CARD).read_text(encoding="utf-8")
        (stage / CARD).write_text(public_card(text, repository, args.hub_license), encoding="utf-8")
    if (stage / RESOLVED).is_file():
        recipe = public_recipe((output_dir / RESOLVED).read_text(encoding="utf-8"))
        (stage / RESOLVED).write_text(recipe, encoding="utf-8")
    return stage


def _model_files(folder: Path) -> Iterator[Path]:
    yield from _files(folder, MODEL_FILES)
    if any(read_object(path).get("auto_map") for path in _files(folder, CONFIGURATIONS)):
        yield from _files(folder, CODE_FILES)


def _files(folder: Path, patterns: tuple[str, ...]) -> Iterator[Path]:
    """The files in `folder` at these places, without symbolic links and what is behind them."""
    for pattern in patterns:
        for path in sorted(folder.glob(pattern)):
            inside = path.relative_to(folder)
            way = [path, *(folder / parent for parent in inside.parents if parent.name)]
            if path.is_file() and not any(each.is_symlink() for each in way):
                yield path


def _put(source: Path, target: Path, names: dict[bytes, bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    if source.suffix in TEXT_FILES:
        target.write_bytes(without_paths(source.read_bytes(), names))
        return
    if source.suffix == ".safetensors":  # a link is safe: these are never changed in place
        try:
            os.link(source, target)
            return
        except OSError:  # the file system has no hard links
            pass
    shutil.copyfile(source, target)


class HubPushes:
    """Mixin for a trainer: transformers' pushes, prepared by `lay_out`.

    A push at a save runs in the background, and a failure is only a warning. The push at the end
    raises UserError if it fails.
    """

    args: Any
    hub_model_id: str | None
    push_in_progress: PushInProgress | None

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        if self.is_world_process_zero():  # type: ignore[attr-defined]
            self.hub_model_id = create_repository(self.args, token, private)
            self.push_in_progress = None
            # A single client, whose background jobs run one after the other.
            self._hub = HfApi(library_name="shaped-trl")
            _clear(self.args.output_dir)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save the model and its card, then push both, as `transformers.Trainer.push_to_hub`.

        It always waits for the push to end.
        """
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        self.save_model(_internal_call=True)  # type: ignore[attr-defined]
        self.create_model_card(**kwargs)  # type: ignore[attr-defined]
        return self.push_saved(commit_message or "End of training", token, revision)

    def push_saved(
        self,
        message: str = "End of training",
        token: str | None = None,
        revision: str | None = None,
    ) -> Any:
        """Push the content of `output_dir`, after the pushes that are still running."""
        if not self.is_world_process_zero():  # type: ignore[attr-defined]
            return None
        trainer: Any = self
        trainer.callback_handler.on_push_begin(self.args, trainer.state, trainer.control)
        # waits for pushes of checkpoints that are under way; the Trainer has no public name for it
        self._finish_current_push()  # type: ignore[attr-defined]
        assert self.hub_model_id is not None  # `init_hf_repo` has set it
        return push_folder(self.args, self.hub_model_id, message, token, revision)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # The Trainer uploads `output_dir` here after each save, as it is. Ours holds logs and paths
        # of this machine, so `lay_out` chooses what goes.
        args = self.args
        if args.hub_strategy == HubStrategy.END:
            return
        if not self.is_world_process_zero():  # type: ignore[attr-defined]
            return
        running = self.push_in_progress
        if running is not None and not running.is_done() and not args.hub_always_push:
            return
        trainer: Any = self
        trainer.callback_handler.on_push_begin(args, trainer.state, trainer.control)
        checkpoint = Path(checkpoint_folder)
        folders = {
            HubStrategy.CHECKPOINT: "last-checkpoint",
            HubStrategy.ALL_CHECKPOINTS: checkpoint.name,
        }
        assert self.hub_model_id is not None  # `init_hf_repo` has set it
        stage = lay_out(args, self.hub_model_id, checkpoint, folders.get(args.hub_strategy))
        step = self.state.global_step  # type: ignore[attr-defined]
        job = self._hub.upload_folder(
            repo_id=self.hub_model_id,
            folder_path=stage,
            commit_message=f"Training in progress, step {step}",
            token=args.hub_token,
            revision=args.hub_revision,
            run_as_future=True,
        )
        job.add_done_callback(partial(_ended, stage, step))
        self.push_in_progress = PushInProgress(
            [job, *(running.jobs if running is not None else [])]
        )


def _ended(stage: Path, step: int, job: Future) -> None:
    shutil.rmtree(stage, ignore_errors=True)
    error = job.exception()
    if error is not None:
        reason = (
            hub_reason(error, constants.ENDPOINT) if isinstance(error, Exception) else repr(error)
        )
        logger.warning(
            "step %d was not pushed: %s; the run continues, and the next push includes everything",
            step,
            reason,
        )
