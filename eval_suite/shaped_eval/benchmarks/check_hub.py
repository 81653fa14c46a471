"""Compares the table of benchmarks with the Hub: ``python -m shaped_eval.benchmarks.check_hub``.

For each data set it asks for the licence, whether access is gated, and the number of rows, and
reads the first row as an evaluation would. It needs a network, and for gated data sets a token. A
line is printed for each benchmark; the exit code is 1 if one of them differs from the table.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from shaped_eval.benchmarks.harness.tasks import HARNESS
from shaped_eval.benchmarks.loading import load_problems
from shaped_eval.benchmarks.registry import BENCHMARKS
from shaped_eval.benchmarks.terms import Terms, terms_of
from shaped_eval.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo


class Card(NamedTuple):
    """What the Hub says of a data set; None for what it does not say."""

    licence: str | None
    gated: bool
    rows: int | None


def differences(terms: Terms, card: Card) -> list[str]:
    """What the Hub says otherwise than the table, in words."""
    found = []
    if terms.licence != card.licence:
        found.append(f"licence {card.licence!r}, in the table {terms.licence!r}")
    if terms.gated != card.gated:
        found.append(f"gated {card.gated}, in the table {terms.gated}")
    if None not in (terms.rows, card.rows) and terms.rows != card.rows:
        found.append(f"{card.rows} rows, in the table {terms.rows}")
    return found


def card_of(dataset_id: str, config: str | None, split: str) -> Card:
    """What the Hub says of a data set, which is asked for over the network."""
    from datasets import load_dataset_builder
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(dataset_id)
    rows = None
    if "*" not in (config or ""):
        splits = load_dataset_builder(dataset_id, config).info.splits or {}
        rows = splits[split].num_examples if split in splits else None
    return Card(licence_of(info), bool(info.gated), rows)


def licence_of(info: DatasetInfo) -> str | None:
    """The licence that a data set's card names; None if it names none."""
    return info.card_data.get("license") if info.card_data is not None else None


def check(name: str) -> list[str]:
    """What is wrong with one benchmark of the table, in words; empty if nothing is."""
    source: Any = BENCHMARKS.get(name) or HARNESS[name]
    try:
        load_problems([name], limit=1, chat=True)
        card = card_of(source.dataset_id, source.config, source.split)
    except UserError as error:
        return [str(error)]
    except Exception as error:  # the Hub's client raises what its transport and parsers raise
        reason = next(iter(str(error).splitlines()), "")
        return [f"{source.dataset_id} could not be asked for: {type(error).__name__}: {reason}"]
    return differences(terms_of(name), card)


def main(names: Sequence[str]) -> int:
    """Check benchmarks, all of the table by default; return 1 if one differs, else 0."""
    wrong = 0
    for name in names or [*BENCHMARKS, *HARNESS]:
        found = check(name)
        wrong += bool(found)
        print(f"{name}: {'; '.join(found) or 'as in the table'}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
