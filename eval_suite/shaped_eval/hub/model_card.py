"""Evaluation results in a model card: the metadata's `model-index` and a section of the text.

Only these two parts of a card change. Everything else, including comments in its metadata, stays
byte for byte as it is. A result is identified by its task's name and its data set, a table by its
name in a comment. Publishing again replaces both, and does not touch what others wrote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from shaped_eval.errors import UserError
from shaped_eval.untrusted.texts import in_markdown

# A card's metadata: the YAML block between two lines of dashes at the beginning.
_METADATA = re.compile(r"\A\s*---[ \t]*\n(.*?\n|)---[ \t]*(?:\n|\Z)", re.DOTALL)
# A key at the left margin and the lines that belong to it: indented or empty lines, and list items.
_INDEX = re.compile(r"^model-index:.*\n(?:(?:[ \t-].*|)\n)*", re.MULTILINE)
_BEGIN, _END = "<!-- evaluation results -->", "<!-- end of evaluation results -->"
_SECTION = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
_TABLE = re.compile(r"<!-- results of (?P<name>\S+) -->\n(?P<text>.*?)\n(?=\n<!-- )", re.DOTALL)


def with_results(
    card: str,
    model_name: str,
    results: Sequence[Mapping[str, Any]],
    tables: Mapping[str, str],
    reading: str,
) -> str:
    """The card with `results` in its model-index and `tables` in its section on evaluation.

    Args:
        card: text of a README.md. If it is empty, a new card is begun.
        model_name: name in the model-index, if that has none yet.
        results: entries of a model-index, each with `task.name`.
        tables: name of a table (without spaces) → Markdown.
        reading: explanation of the tables, printed above them.

    Raises:
        UserError: the card's metadata is not YAML, or its model-index has another form.
    """
    card = card.removeprefix("\ufeff")
    line_break = "\r\n" if "\r\n" in card else "\n"
    card = (
        card.replace("\r\n", "\n")
        or f"---\nlibrary_name: transformers\n---\n\n# {in_markdown(model_name)}\n"
    )
    match = _METADATA.match(card)
    metadata, text = (match.group(1), card[match.end() :]) if match else ("", card)
    metadata = _with_index(metadata, model_name, results)
    text = with_tables(text, tables, reading)
    header = f"---\n{metadata}---\n" if metadata else ""
    return (header + text).replace("\n", line_break)


def split_card(card: str) -> tuple[dict[str, Any], str]:
    """Metadata and text of a card.

    Raises:
        UserError: the metadata is not YAML, or not a mapping.
    """
    card = card.removeprefix("\ufeff").replace("\r\n", "\n")
    match = _METADATA.match(card)
    return (_parsed(match.group(1)), card[match.end() :]) if match else ({}, card)


def with_results_of(before: str, card: str) -> str:
    """A newly written card, with the model-index and evaluation section of the card `before`.

    Raises:
        UserError: as `split_card`.
    """
    index = split_card(before)[0].get("model-index")
    section = _SECTION.search(before.replace("\r\n", "\n"))
    if index:
        metadata, text = split_card(card)
        card = card_text({**metadata, "model-index": index}, text)
    return card if section is None else f"{_SECTION.sub('', card).rstrip()}\n\n{section.group()}\n"


def card_text(metadata: Mapping[str, Any], text: str) -> str:
    """The text of a card with this metadata and text, the inverse of `split_card`."""
    header = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{header}---\n{text}"


def _parsed(metadata: str) -> dict[str, Any]:
    try:
        parsed = yaml.safe_load(metadata) or {}
    except yaml.YAMLError as error:
        raise UserError(
            f"README.md: its metadata is not YAML ({' '.join(str(error).split())}): correct it"
        ) from error
    if not isinstance(parsed, dict):
        raise UserError(
            f"README.md: its metadata is a {type(parsed).__name__}, not a mapping: correct it"
        )
    return parsed


def _with_index(metadata: str, model_name: str, results: Sequence[Mapping[str, Any]]) -> str:
    parsed = _parsed(metadata)
    before = parsed.pop("model-index", None)
    if not results and not before:
        return metadata
    index = yaml.safe_dump(
        {"model-index": _merged(before, model_name, results)},
        sort_keys=False,
        allow_unicode=True,
        width=1000,
    )
    rest = _INDEX.sub("", metadata)
    # the index has a form that the pattern does not cover: only comments are lost
    if _parsed(rest) != parsed:
        rest = (
            yaml.safe_dump(parsed, sort_keys=False, allow_unicode=True, width=1000)
            if parsed
            else ""
        )
    return rest + index


def _merged(
    before: Any, model_name: str, results: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The index with `results` replacing those of the same task and data set.

    New results go to the first model of the index.
    """
    index: Any = before if before is not None else [{"name": model_name, "results": []}]
    new = {_key(result) for result in results}
    try:
        for model in index:
            model["results"] = [
                result for result in model.get("results") or [] if _key(result) not in new
            ]
        index[0]["results"].extend(results)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise UserError(
            "README.md: its model-index is not a list of models with results: correct or remove it"
        ) from error
    return index


def _key(result: Mapping[str, Any]) -> tuple:
    dataset = result["dataset"]
    return result["task"].get("name"), *(dataset.get(name) for name in ("type", "config", "split"))


def with_tables(text: str, tables: Mapping[str, str], reading: str) -> str:
    """A card's text with `tables` in its evaluation section, which is appended if it is missing."""
    match = _SECTION.search(text)
    before = {one["name"]: one["text"] for one in _TABLE.finditer(match.group())} if match else {}
    parts = [
        f"<!-- results of {name} -->\n{table}\n"
        for name, table in sorted({**before, **tables}.items())
    ]
    section = "\n".join([f"{_BEGIN}\n## Evaluation\n\n{reading}\n", *parts]) + f"\n{_END}"
    if match:
        return text[: match.start()] + section + text[match.end() :]
    return f"{text.rstrip()}\n\n{section}\n".lstrip("\n")
