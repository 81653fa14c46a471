"""The numbers of a figure as a CSV file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

# With which a cell of a spreadsheet begins that is a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def csv_text(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """The text of a CSV file; a cell that is None is empty.

    Names in a study may be somebody else's. One that a spreadsheet would take for a formula has an
    apostrophe before it.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(map(_cell, row) for row in rows)
    return buffer.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
