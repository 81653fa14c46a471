"""A run's samples and verdicts as a data set on the Hub: Parquet files and a card.

Prompts and golds are left out. They belong to the benchmarks, and copies of them would end up in
training data. Where a benchmark's authors ask that its examples are not published, completions and
extracted answers are left out as well, since they repeat the question.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from shaped_eval.benchmarks.terms import is_publishable
from shaped_eval.hub.entries import READING, Variant, table
from shaped_eval.hub.model_card import split_card, with_tables
from shaped_eval.records import read_jsonl
from shaped_eval.untrusted.files import own_folder, replacing
from shaped_eval.untrusted.texts import in_markdown

SPLIT = "samples"
ABOUT = """\
Every completion behind the numbers of an evaluation, with its verdict. A configuration is a
benchmark with its settings: `load_dataset(REPOSITORY, CONFIGURATION, split="samples")`.

- `problem_id`: the benchmark, and the problem's id in its data set; `sample_index`: 0 to n − 1
- `completion`; `finish_reason` (`length`: cut by the token limit); `tokens` generated
- `status`: pass, fail, unparsed, timeout or error; `answer`: the answer that was extracted from the
  completion, in canonical form; `grader` and its version

Prompts and reference answers belong to the benchmarks and are not repeated here. `completion` and
`answer` are empty for benchmarks whose authors ask that examples are not published."""
_ROWS_AT_ONCE = 2048


def write_samples(
    folder: str | Path, variants: Sequence[Variant], out: str | Path
) -> dict[str, Path]:
    """Write the run's rows below `out`, one file for each variant, and return slug → file.

    Columns: problem_id, sample_index, completion, finish_reason, tokens, status, answer, grader.
    Rows are in the order of samples.jsonl. Verdicts are held in memory, completions are not.
    """
    import pyarrow
    import pyarrow.parquet

    text = pyarrow.string()
    types = {"sample_index": pyarrow.int64(), "tokens": pyarrow.int64()}
    columns = (
        "problem_id",
        "sample_index",
        "completion",
        "finish_reason",
        "tokens",
        "status",
        "answer",
        "grader",
    )
    schema = pyarrow.schema([(name, types.get(name, text)) for name in columns])
    folder = Path(folder)
    slugs = {variant.benchmark: variant.slug for variant in variants}
    files = {slug: Path(out) / slug / f"{SPLIT}.parquet" for slug in slugs.values()}
    rows = _rows(folder)
    with ExitStack() as stack:
        writers = {}
        for slug, path in files.items():
            own_folder(out, slug)
            file = stack.enter_context(replacing(path, "wb"))
            writers[slug] = stack.enter_context(
                pyarrow.parquet.ParquetWriter(file, schema, compression="zstd")
            )
        while chunk := list(islice(rows, _ROWS_AT_ONCE)):
            for benchmark, slug in slugs.items():
                chosen = [row for row in chunk if row["benchmark"] == benchmark]
                if chosen:
                    writers[slug].write_table(pyarrow.Table.from_pylist(chosen, schema=schema))
    return files


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    benchmarks = {
        row["problem_id"]: row["benchmark"] for row in read_jsonl(folder / "problems.jsonl")
    }
    verdicts = {
        (row["problem_id"], row["sample_index"]): {
            name: row[name] for name in ("status", "answer", "grader")
        }
        for row in read_jsonl(folder / "verdicts.jsonl")
    }
    for row in read_jsonl(folder / "samples.jsonl"):
        key = row["problem_id"], row["sample_index"]
        benchmark = benchmarks[row["problem_id"]]
        withheld = {} if is_publishable(benchmark) else {"completion": None, "answer": None}
        yield {"benchmark": benchmark, **row, **verdicts[key], **withheld}


def samples_card(model: str | None, variants: Sequence[Variant], before: str = "") -> str:
    """README.md of the data set.

    Args:
        model: the model's name; None for answers from elsewhere.
        variants: the variants to describe.
        before: the present card, whose text on other variants is kept.

    Raises:
        UserError: the metadata of `before` is not YAML.
    """
    metadata, text = split_card(before)
    slugs = [variant.slug for variant in variants]
    known = metadata.get("configs") or []
    configs = [one for one in known if one.get("config_name") not in slugs]
    configs += [
        {"config_name": slug, "data_files": [{"split": SPLIT, "path": f"{slug}/{SPLIT}.parquet"}]}
        for slug in slugs
    ]
    fresh = {"tags": ["evaluation", "shaped-trl"], "task_categories": ["text-generation"]}
    metadata = {
        **fresh,
        **metadata,
        "configs": sorted(configs, key=lambda one: str(one.get("config_name"))),
    }
    title = f"Samples of {in_markdown(model or 'given answers')}, graded"
    tables = {
        variant.slug: f"Configuration `{variant.slug}`\n\n{table(variant, None)}"
        for variant in variants
    }
    text = with_tables(text or f"\n# {title}\n\n{ABOUT}\n", tables, READING)
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n{text}"
