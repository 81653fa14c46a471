"""Publishes a run's results into a checkpoint's folder and, on request, to the Hub.

    CHECKPOINT/.eval_results/<variant>.yaml   leaderboard entries, one file per variant
    CHECKPOINT/README.md                      model-index and tables, merged into the present card
    RUN/hub/samples/                          the data set of samples and verdicts, with its card
    RUN/hub/model/                            the files for a checkpoint, if none is named

All of this is written before anything is sent. On the Hub, the first two go to the model's
repository, and the data set goes to a repository beside it that is named after it, each in one
commit. Weights are never sent.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from shaped_eval.errors import UserError
from shaped_eval.hub.entries import (
    READING,
    Variant,
    eval_result,
    index_result,
    read_variants,
    table,
)
from shaped_eval.hub.errors import hub_errors, hub_reason
from shaped_eval.hub.leaderboards import LEADERBOARDS, Leaderboard, leaderboards
from shaped_eval.hub.model_card import with_results
from shaped_eval.hub.samples import samples_card, write_samples
from shaped_eval.records import write_atomic
from shaped_eval.reporting.outcomes import read_record
from shaped_eval.untrusted.files import open_own, own_folder
from shaped_eval.untrusted.pretrained import model_fingerprint
from shaped_eval.untrusted.rows import read_object

if TYPE_CHECKING:
    from argparse import _ArgumentGroup

    from huggingface_hub import HfApi

CARD = "README.md"
SAMPLES_SUFFIX = "-evaluation-samples"
_FINGERPRINT = re.compile(r"[0-9a-f]{64}(?:\+.+)?")


@dataclass
class PublishOptions:
    """Where results are published, besides the run's own folder.

    Raises:
        UserError: the folder does not exist, the repository's name is invalid, or the user is not
            logged in. This is checked before anything is sampled.
    """

    publish_to: str | None = field(
        default=None,
        metadata={
            "help": "Checkpoint folder to write the results into: files in .eval_results/, and "
            "tables and the model-index in the model card.",
            "metavar": "DIR",
        },
    )
    push_to_hub: str | None = field(
        default=None,
        metadata={
            "help": "Model repository to send the results to, such as me/my-model. The samples "
            f"go to the data set me/my-model{SAMPLES_SUFFIX}. Weights are never sent.",
            "metavar": "REPOSITORY",
        },
    )
    private: bool = field(
        default=False, metadata={"help": "Make the repositories that push_to_hub creates private."}
    )

    def __post_init__(self) -> None:
        if self.publish_to is not None:
            _check_checkpoint(Path(self.publish_to))
        if self.push_to_hub is not None:
            _check_repository(self.push_to_hub)
        elif self.private:
            raise UserError(
                "private=True applies to the repositories that push_to_hub creates: "
                "set push_to_hub, or leave private out"
            )

    @classmethod
    def add_to(cls, parser: _ArgumentGroup) -> None:
        """Add the options to a group of a command's parser."""
        for one in fields(cls):
            how: dict[str, Any] = {"action": "store_true"} if one.default is False else {}
            parser.add_argument(f"--{one.name}", **one.metadata, **how)

    def refuse_with(self, what: str) -> None:
        """Raise UserError if anything is to be published although `what` is not a single run."""
        if self.is_requested:
            raise UserError(
                f"{what} publishes nothing: publish a single run with `shaped-trl report RUN "
                "--publish_to ..`"
            )

    @property
    def is_requested(self) -> bool:
        return self.publish_to is not None or self.push_to_hub is not None


@dataclass
class _Published:
    """What the runs have to publish.

    Attributes:
        entries: file name → text of a leaderboard entry.
        results: entries of a model-index.
        tables: slug → Markdown.
        samples: slug → Parquet file.
    """

    model: str | None
    variants: list[Variant] = field(default_factory=list)
    entries: dict[str, str] = field(default_factory=dict)
    results: list[dict[str, Any]] = field(default_factory=list)
    tables: dict[str, str] = field(default_factory=dict)
    samples: dict[str, Path] = field(default_factory=dict)

    def card(self, before: str, name: str) -> str:
        return with_results(before, name, self.results, self.tables, READING)


def publish(folders: Sequence[str | Path], options: PublishOptions) -> list[str]:
    """Write the results of finished runs of one model, and send them to the Hub if requested.

    Prints and returns where they are. Does nothing if `options` request nothing.

    Raises:
        UserError: a run is not finished, or evaluated other weights than the checkpoint's; a card
            cannot be read; or the Hub does not accept the results. In the last case everything has
            been written locally.
    """
    if not options.is_requested:
        return []
    checkpoint = None if options.publish_to is None else Path(options.publish_to)
    for folder in folders:
        if checkpoint is not None:
            _check_same_weights(folder, checkpoint)
    boards, note = (LEADERBOARDS, None) if options.push_to_hub is None else leaderboards()
    runs = [_read(folder, options.push_to_hub, boards) for folder in folders]
    published = _Published(runs[0].model)
    for folder, run in zip(folders, runs, strict=True):
        target = checkpoint or own_folder(folder, "hub", "model")
        samples = own_folder(folder, "hub", "samples")
        _write(run, target, options.push_to_hub or target.resolve().name)
        run.samples = write_samples(folder, run.variants, samples)
        write_atomic(samples / CARD, samples_card(run.model, run.variants))
        published.variants += run.variants
        published.results += run.results
        for name in ("entries", "tables", "samples"):
            getattr(published, name).update(getattr(run, name))
    written = [str(checkpoint)] if checkpoint else [str(Path(folder) / "hub") for folder in folders]
    if options.push_to_hub is not None:
        written += _push(published, options.push_to_hub, options.private, written, checkpoint)
    print(f"published: {', '.join(written)}")
    if note is not None:
        print(note, file=sys.stderr)
    return written


def _read(folder: str | Path, repo_id: str | None, boards: Mapping[str, Leaderboard]) -> _Published:
    path = Path(folder) / "results.json"
    if not path.is_file():
        raise UserError(
            f"{str(folder)!r} has no results.json: finish the run with `shaped-trl report {folder}`"
        )
    variants = read_variants(folder, read_object(path), boards)
    run = _Published(repo_id or _public_name(read_record(folder)), variants)
    url = _samples_url(repo_id) if repo_id else None
    for variant in variants:
        if variant.has_leaderboard:
            run.entries[f"{variant.slug}.yaml"] = yaml.safe_dump(
                [eval_result(variant, url)], sort_keys=False, allow_unicode=True, width=1000
            )
        result = index_result(variant, url)
        run.results += [result] if result else []
        run.tables[variant.slug] = table(variant, url)
    return run


def _public_name(record: Mapping[str, Any]) -> str | None:
    """The model's id, or the name of its folder without the path, which is private."""
    model = record.get("model")
    return Path(model).name if model and _is_fingerprint(record.get("model_identity")) else model


def _is_fingerprint(identity: str | None) -> bool:
    """Whether `identity` begins with a folder's fingerprint; that of an adapter's base may follow.

    A commit of the Hub has 40 digits and says nothing about a local copy.
    """
    return identity is not None and _FINGERPRINT.fullmatch(identity) is not None


def _write(run: _Published, target: Path, name: str) -> None:
    text = run.card(_card_in(target), name)
    for file_name, entry in run.entries.items():
        write_atomic(own_folder(target, ".eval_results") / file_name, entry)
    write_atomic(target / CARD, text)


def _card_in(folder: Path) -> str:
    """The present README.md of a folder; empty if it has none.

    Raises:
        UserError: it is a symbolic link. The card is published, and a link in somebody else's
            folder can lead to any file of this machine.
    """
    card = folder / CARD
    if not card.is_file() and not card.is_symlink():
        return ""
    with open_own(card, "rb") as file:  # bytes, so that the card's own line ends are kept
        return file.read().decode("utf-8")


def _check_checkpoint(checkpoint: Path) -> None:
    if not checkpoint.is_dir():
        raise UserError(
            f"publish_to={str(checkpoint)!r} is not a folder: give the folder of a saved model"
        )
    if not any((checkpoint / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise UserError(
            f"publish_to={str(checkpoint)!r} holds no model, because it has no config.json: give "
            "the folder of a saved model"
        )


def _check_same_weights(folder: str | Path, checkpoint: Path) -> None:
    identity = read_record(folder).get("model_identity")
    if _is_fingerprint(identity) and identity != model_fingerprint(checkpoint):
        raise UserError(
            f"publish_to={str(checkpoint)!r} does not hold the weights that {str(folder)!r} "
            f"evaluated ({read_record(folder).get('model')!r}), or they have changed since: "
            "evaluate it, then publish"
        )


def _check_repository(repo_id: str) -> None:
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
        validate_repo_id(repo_id + SAMPLES_SUFFIX)
    except HFValidationError as error:
        raise UserError(
            f"push_to_hub={repo_id!r} is not a valid name of a repository, such as me/my-model: "
            f"{error}"
        ) from error
    if get_token() is None:
        raise UserError(
            f"push_to_hub={repo_id!r}: you are not logged in: run `hf auth login`, or set HF_TOKEN"
        )


def _samples_url(repo_id: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/datasets/{repo_id}{SAMPLES_SUFFIX}"


def _push(
    published: _Published, repo_id: str, private: bool, written: list[str], checkpoint: Path | None
) -> list[str]:
    """Send the data set, then the results, which link to it."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        urls = [
            _push_samples(api, published, repo_id + SAMPLES_SUFFIX, private),
            _push_results(api, published, repo_id, private, checkpoint),
        ]
    except hub_errors() as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"push_to_hub={repo_id!r}: {hub_reason(error, api.endpoint)}; everything is written "
            f"in {', '.join(written)}, and the same command continues from there"
        ) from error
    return urls


def _push_samples(api: HfApi, published: _Published, repo_id: str, private: bool) -> str:
    from huggingface_hub import CommitOperationAdd

    api.create_repo(repo_id, repo_type="dataset", private=private or None, exist_ok=True)
    card = samples_card(
        published.model, published.variants, _card_on_hub(api, repo_id, "dataset") or ""
    )
    additions = [
        CommitOperationAdd(f"{slug}/{path.name}", str(path))
        for slug, path in sorted(published.samples.items())
    ]
    return _commit(
        api, repo_id, "dataset", [CommitOperationAdd(CARD, card.encode()), *additions], published
    )


def _push_results(
    api: HfApi, published: _Published, repo_id: str, private: bool, checkpoint: Path | None
) -> str:
    from huggingface_hub import CommitOperationAdd

    api.create_repo(repo_id, private=private or None, exist_ok=True)
    before = _card_on_hub(api, repo_id, "model")
    if before is None and checkpoint is not None:
        before = _card_in(checkpoint)
    card = published.card(before or "", repo_id.rpartition("/")[2])
    entries = [
        CommitOperationAdd(f".eval_results/{name}", text.encode())
        for name, text in sorted(published.entries.items())
    ]
    return _commit(
        api, repo_id, "model", [CommitOperationAdd(CARD, card.encode()), *entries], published
    )


def _commit(
    api: HfApi, repo_id: str, repo_type: str, operations: list, published: _Published
) -> str:
    names = ", ".join(dict.fromkeys(variant.benchmark for variant in published.variants))
    message = f"Evaluation results: {names}"
    return str(
        api.create_commit(
            repo_id, operations, commit_message=message, repo_type=repo_type
        ).commit_url
    )


def _card_on_hub(api: HfApi, repo_id: str, repo_type: str) -> str | None:
    """The present README.md of the repository; None if it has none."""
    from huggingface_hub.errors import EntryNotFoundError

    # not the user's cache, because the next push must see the card that this one writes
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = api.hf_hub_download(repo_id, CARD, repo_type=repo_type, cache_dir=folder)
        except EntryNotFoundError as error:
            if isinstance(error, OSError) and getattr(error, "response", None) is None:
                raise  # the Hub did not answer, and the file is not cached either
            return None
        return Path(path).read_bytes().decode("utf-8")
