"""The pre-registration of a study: ``OUT/registration.jsonl``.

The file of a study is its pre-registration. At the first start, the first row says which file it
was. At each later start with other settings, recipes or code, another row says what was changed,
and how many records there were by then.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from shaped_eval.provenance import source_commit, source_hash
from shaped_eval.records import append_jsonl, drop_truncated_line, read_jsonl
from shaped_eval.untrusted.rows import shortened
from shaped_eval.untrusted.texts import one_line

from shaped_trl import recipes
from shaped_trl.study.definition import Study

REGISTRATION = "registration.jsonl"
_HASHES = {40: "sha1", 64: "sha256"}  # the length of git's object names → their hash
# git must not run what a foreign repository configures. It neither fetches missing objects, for
# which it would start a transport, nor follows replacements.
_GIT_ENVIRONMENT = {"GIT_ALLOW_PROTOCOL": "none", "GIT_NO_REPLACE_OBJECTS": "1"}


@dataclass(frozen=True)
class Registration:
    """A row of the file.

    Args:
        date: when the study was started (UTC, ISO 8601).
        study_sha256: of the bytes of the study's file; None if it was not read from a file.
        commit: of the repository in which the file lies, if it is committed there unchanged.
        shaped_trl_commit: of this package's checkout, if there is one.
        records: how many finished runs had been recorded.
        changes: "path: old -> new" for each setting that differs from the start before.
        settings_sha256: of the settings in ``OUT/study.yaml``; None in rows of earlier versions.
        source_sha256: of this package's code; None in rows of earlier versions.
    """

    date: str
    study_sha256: str | None
    commit: str | None
    shaped_trl_commit: str | None
    records: int = 0
    changes: list[str] = field(default_factory=list)
    settings_sha256: str | None = None
    source_sha256: str | None = None


def register(
    study: Study, file: Path | None, num_records: int, changed_stages: Sequence[str] = ()
) -> None:
    """Write a row if this is the first start, or if something differs from the last start.

    Call it before ``OUT/study.yaml`` is replaced.

    Args:
        study: the study that starts.
        file: its file.
        num_records: how many finished runs its folder has records of.
        changed_stages: the stages of which a run has other settings than at the last start. They
            may come from a recipe, which is not a part of the study's file.
    """
    path = study.out / REGISTRATION
    earlier = read_registration(study.out)
    changes = list(_changes(study))
    if changed_stages:
        changes.append(f"settings of the runs of {', '.join(changed_stages)}")
    commit = source_commit()
    if earlier and earlier[-1].shaped_trl_commit != commit:
        before = shortened(earlier[-1].shaped_trl_commit)  # of a file that may be somebody else's
        changes.append(f"shaped_trl_commit: {before} -> {shortened(commit)}")
    elif earlier and earlier[-1].source_sha256 not in (None, source_hash()):
        changes.append("the code of shaped-trl")
    elif earlier and earlier[-1].source_sha256 is None and (commit or "-dirty").endswith("-dirty"):
        changes.append("the code of shaped-trl, of which there was no hash before")
    if earlier and not changes:
        return
    content = file.read_bytes() if file else None
    row = Registration(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        study_sha256=hashlib.sha256(content).hexdigest() if content is not None else None,
        commit=commit_of(file) if file else None,
        shaped_trl_commit=commit,
        records=num_records,
        changes=changes,
        settings_sha256=_hash_of(yaml.safe_load(study.to_yaml())),
        source_sha256=source_hash(),
    )
    drop_truncated_line(path)
    append_jsonl(path, [row])


def read_registration(out: Path) -> list[Registration]:
    """The rows of a study's folder, in order; none if it was started before there were any.

    Raises:
        UserError: the file is damaged.
    """
    path = out / REGISTRATION
    return list(read_jsonl(path, Registration)) if path.exists() else []


def was_edited(out: Path) -> bool:
    """Whether ``OUT/study.yaml`` has other settings than the last start wrote there."""
    rows = read_registration(out)
    known = rows[-1].settings_sha256 if rows else None
    return known is not None and known != _hash_of(recipes.load(out / "study.yaml"))


def _hash_of(settings: dict[str, Any]) -> str:
    leaves = sorted((name, repr(value)) for name, value in _leaves(settings))
    return hashlib.sha256(json.dumps(leaves).encode()).hexdigest()


def commit_of(file: Path) -> str | None:
    """HEAD of the repository in which the file lies, if HEAD has the file with the same bytes.

    The bytes are hashed here. git only looks up names: it neither reads its index nor runs a
    filter, hook, monitor or transport.
    """
    file = file.resolve()
    command = ["git", "-C", str(file.parent), "rev-parse", "HEAD", f"HEAD:./{file.name}"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=30, env=own | _GIT_ENVIRONMENT
        )
    # git is not installed, or the file system does not respond
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    lines = result.stdout.split()
    if result.returncode != 0 or len(lines) != 2 or len(lines[1]) not in _HASHES:
        return None
    content = file.read_bytes()
    blob = hashlib.new(_HASHES[len(lines[1])], b"blob %d\0" % len(content) + content)
    return lines[0] if blob.hexdigest() == lines[1] else None


def _changes(study: Study) -> Iterator[str]:
    """The settings in which the study differs from the one that its folder holds."""
    path = study.out / "study.yaml"
    if not path.is_file():
        return
    old = dict(_leaves(recipes.load(path)))
    new = dict(_leaves(yaml.safe_load(study.to_yaml())))
    for name in dict.fromkeys([*old, *new]):
        if name not in old or name not in new or old[name] != new[name]:
            yield one_line(f"{name}: {_shown(old, name)} -> {_shown(new, name)}")


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The paths of a mapping's values, such as ``arms.precision.shape.beta``; a list is a value."""
    if isinstance(value, dict) and value:
        for key, each in value.items():
            yield from _leaves(each, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _shown(values: dict[str, Any], name: str) -> str:
    return shortened(values[name]) if name in values else "nothing"
