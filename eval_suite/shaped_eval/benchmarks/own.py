"""A benchmark of one's own: a file in place of a name, and no code.

``--benchmarks ./mine.yaml`` names a file that says where the rows are and how they are read:

    dataset_name: rows.jsonl        # a file beside this one, or the id of a data set on the Hub
    dataset_config: main            # of a data set on the Hub
    split: test                     # the split of it that is evaluated; "test" by default
    prompt_template: "Question: {question}\\nAnswer:"
    gold_template: "{answer}"
    grader: math                    # math (the default), choice, exact_match, text, code, ...
    stop: ["\\nQuestion:"]           # strings that end a completion of a base model
    shots: 2                        # worked examples at the beginning of a base model's prompt
    shots_split: train              # their split, or a file beside this one
    solution_template: "{solution}" # what follows their prompt; the gold answer by default
    chat: true                      # whether prompts are chats; by default the run decides

Only ``dataset_name`` is required. Without templates the columns ``prompt`` and ``gold`` are read,
and ``--benchmarks ./mine.jsonl`` is short for a YAML file that names these rows and nothing else.

A run's folder calls the benchmark by the file's name without its ending. It stores the problems,
their gold answers and the name of the grader, so that it can be continued, graded and reported when
the file is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from shaped_eval.benchmarks.prompts import PLAIN
from shaped_eval.benchmarks.rows import Benchmark, ColumnReader
from shaped_eval.benchmarks.templates import template_fields
from shaped_eval.errors import UserError
from shaped_eval.grading.graders import grader_spec
from shaped_eval.untrusted.files import file_name
from shaped_eval.untrusted.rows import row_of
from shaped_eval.untrusted.yaml_files import read_mapping

DEFINITION, ROWS = ".yaml", ".jsonl"
_SPLIT = "test"


@dataclass(frozen=True)
class _Definition:
    """The keys of the YAML file; see the top of this module."""

    dataset_name: str
    dataset_config: str | None = None
    split: str | None = None
    prompt_template: str | None = None
    gold_template: str | None = None
    solution_template: str | None = None
    grader: str = "math"
    stop: list[str] = field(default_factory=list)
    shots: int = 0
    shots_split: str | None = None
    chat: bool | None = None


def is_own(name: str) -> bool:
    """Whether `name` is the path of a file that defines a benchmark, not the name of one."""
    return Path(name).suffix in (DEFINITION, ROWS)


def name_of(name: str) -> str:
    """What a run's folder calls a benchmark: its name, or the name of its file without ending."""
    return Path(name).stem if is_own(name) else name


def read_own(path: str) -> Benchmark:
    """The benchmark that a file of the user's defines; its rows are not read yet.

    Args:
        path: a .yaml or .jsonl file. Only what the user typed may come here, on the command line
            or in a recipe: a grader that the file names by its module is code that will run.

    Raises:
        UserError: there is no such file, it cannot be read, or one of its keys is wrong.
    """
    if not Path(path).is_file():
        raise UserError(f"benchmark={path!r}: there is no such file")
    name = name_of(path)
    if file_name(name) != name:
        raise UserError(
            f"benchmark={path!r}: a benchmark has the name of its file, which may contain "
            "letters, digits and ._=+- only: rename the file"
        )
    if Path(path).suffix == ROWS:
        return _benchmark(_Definition(path), Path())
    definition = _read_definition(Path(path))
    try:
        _check(definition)
    except ValueError as error:
        raise UserError(f"benchmark={path!r}: {error}") from error
    return _benchmark(definition, Path(path).parent)


def files_of(path: str) -> list[Path]:
    """The file that defines a benchmark, then the files of rows that it names.

    Raises:
        UserError: the file cannot be read, or one of its keys is wrong.
    """
    if Path(path).suffix == ROWS:
        return [Path(path)]
    definition = _read_definition(Path(path))
    named = (definition.dataset_name, definition.shots_split or "")
    rows = [Path(path).parent / name for name in named if is_file_of_rows(name)]
    return [Path(path), *rows]


def _read_definition(path: Path) -> _Definition:
    try:
        return row_of(_Definition, read_mapping(path, "benchmark"))
    except UserError:
        raise
    except ValueError as error:
        keys = ", ".join(each.name for each in fields(_Definition))
        raise UserError(f"benchmark={str(path)!r}: {error}; the keys are {keys}") from error


def _check(definition: _Definition) -> None:
    """Raise ValueError, naming the key, for a value that no benchmark can have."""
    grader_spec(definition.grader, typed=True)
    for name in ("dataset_name", "split", "shots_split", "prompt_template", "gold_template"):
        if getattr(definition, name) == "":
            raise ValueError(f"{name} is empty: give a text, or leave it out")
    for name in ("prompt", "gold", "solution"):
        template_fields(name, getattr(definition, f"{name}_template") or "")
    if Path(definition.dataset_name).suffix in (".json", ".csv", ".parquet", ".txt"):
        raise ValueError(
            f"dataset_name={definition.dataset_name!r}: a file of rows must be a {ROWS} file"
        )
    if "" in definition.stop:
        raise ValueError("stop holds an empty text, which would end every completion")
    if is_file_of_rows(definition.dataset_name):
        _check_file(definition)
    _check_shots(definition)


def _check_file(definition: _Definition) -> None:
    for name in ("dataset_config", "split"):
        if getattr(definition, name) is not None:
            raise ValueError(
                f"{name}={getattr(definition, name)!r} does not go with the file "
                f"{definition.dataset_name!r}, which has no splits: leave it out"
            )
    if definition.shots_split is not None and not is_file_of_rows(definition.shots_split):
        raise ValueError(
            f"shots_split={definition.shots_split!r}: the file {definition.dataset_name!r} "
            f"has no splits: name another {ROWS} file"
        )


def _check_shots(definition: _Definition) -> None:
    shots, split = definition.shots, definition.shots_split
    if shots and split is None:
        raise ValueError(f"shots={shots} needs shots_split, where the worked examples are")
    if shots and definition.chat:
        raise ValueError(f"shots={shots} does not go with chat=True: chats have no examples")
    if split is not None and split in (definition.split or _SPLIT, definition.dataset_name):
        raise ValueError(f"shots_split={split!r} is what is evaluated: take other rows")


def _benchmark(definition: _Definition, folder: Path) -> Benchmark:
    """The benchmark of a definition whose files lie in `folder`."""
    ends_in_space = (definition.prompt_template or "")[-1:].isspace()
    stop, between = tuple(definition.stop), "" if ends_in_space else " "
    read = ColumnReader(
        definition.prompt_template,
        definition.gold_template,
        boxed_golds=definition.grader == "math",
    )
    shots_split = definition.shots_split
    return Benchmark(
        dataset_id=_beside(folder, definition.dataset_name),
        config=definition.dataset_config,
        split=definition.split or _SPLIT,
        read=read,
        style=replace(PLAIN, stop=stop, between=between),
        grader=definition.grader,
        shots=definition.shots,
        shots_split=None if shots_split is None else _beside(folder, shots_split),
        read_example=replace(read, solution_template=definition.solution_template),
        chat=definition.chat,
    )


def _beside(folder: Path, name: str) -> str:
    return str(folder / name) if is_file_of_rows(name) else name


def is_file_of_rows(name: str) -> bool:
    """Whether a data set or a split is named by the path of a file."""
    return Path(name).suffix == ROWS


def chat_of(names: Sequence[str], chat: bool, option: str = "chat_template") -> bool:
    """Whether a run asks in chats: as it was told to, or as all its benchmarks say of themselves.

    Args:
        names: the benchmarks of the run.
        chat: what the run was told.
        option: the name of the option that told it.

    Raises:
        UserError: a file says that its prompts are not chats, or the reverse, and the run or
            another benchmark needs it otherwise; or a file cannot be read.
    """
    chats = {name: read_own(name).chat for name in names if is_own(name)}
    if chats and len(chats) == len(names) and all(chats.values()):
        return True
    for name, own in chats.items():
        if own is not None and own != chat:
            raise UserError(
                f"benchmark={name!r} says chat: {str(own).lower()}, "
                f"but {option}={chat} for the whole run: "
                "change one of them, or run this benchmark alone"
            )
    return chat
