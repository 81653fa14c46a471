"""Templates that build a text from the columns of a row: ``"Question: {question}\\nAnswer:"``.

A template reaches into nested columns: ``{reward_model[ground_truth]}``.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from shaped_eval.errors import UserError


def check_templates(columns: Mapping[str, str], present: Sequence[str]) -> None:
    """Check that the templates fit a data set.

    Args:
        columns: name of each column to build, such as ``prompt``, and its template.
        present: the columns that the data set has.

    Raises:
        UserError: a template is malformed, or names a column that is not `present`.
    """
    for name, template in columns.items():
        named = {re.split(r"[.\[]", path)[0] for path in template_fields(name, template)}
        missing = named - set(present)
        if missing:
            raise UserError(
                f"{name}_template={template!r} names {sorted(missing)}, "
                f"but the data has the columns {list(present)}"
            )


def template_fields(name: str, template: str) -> list[str]:
    """What a template names, nested columns with the way to them: ``reward_model[ground_truth]``.

    Raises:
        UserError: the template of the column `name` is malformed.
    """
    try:
        return [path for _, path, _, _ in string.Formatter().parse(template) if path]
    except ValueError as error:
        raise UserError(
            f"{name}_template={template!r} is malformed ({error}): "
            "write a brace that belongs to the text twice"
        ) from error


def fill(name: str, template: str, row: Mapping[str, Any]) -> str:
    """The text that the template of the column `name` builds from a row.

    Raises:
        UserError: the row lacks a value that the template names, for example in a nested column.
    """
    try:
        return template.format(**row)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError) as error:
        raise UserError(
            f"{name}_template={template!r} does not fit a row ({error!r}) "
            f"that has the columns {list(row)}"
        ) from error
