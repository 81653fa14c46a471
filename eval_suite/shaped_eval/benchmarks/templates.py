"""Templates that build a text from a row's columns: ``"Question: {question}\\nAnswer:"``."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from shaped_eval.errors import UserError


def check_templates(columns: Mapping[str, str], present: Sequence[str]) -> None:
    """Raise UserError where a template is malformed or names a column that is not `present`."""
    for name, template in columns.items():
        missing = {re.split(r"[.\[]", path)[0] for path in template_fields(name, template)} - set(
            present
        )
        if missing:
            raise UserError(
                f"{name}_template={template!r} names {sorted(missing)}, but the data has the columns {list(present)}"
            )


def template_fields(name: str, template: str) -> list[str]:
    """The columns that a template names, with the way into nested ones:
    ``reward_model[ground_truth]``."""
    try:
        return [path for _, path, _, _ in string.Formatter().parse(template) if path]
    except ValueError as error:
        raise UserError(
            f"{name}_template={template!r}: {error}; write a brace of the text itself twice"
        ) from error


def fill(name: str, template: str, row: Mapping[str, Any]) -> str:
    """A row's text. Raises UserError where the row has no such value, as inside of a nested
    column."""
    try:
        return template.format(**row)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{name}_template={template!r} does not fit a row ({error!r}) that has {dict(row)}"
        ) from error
