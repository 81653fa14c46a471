"""Evaluation results in a model card: the metadata's `model-index` and a section of the text, added
or replaced.

Only these two parts of a card change. Everything else, comments in its metadata included, stays as
it is, byte for byte. A result is known by its task's name and its data set, a table by its name in
a comment: publishing again replaces both, and leaves alone what others wrote.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from shaped_eval.errors import UserError
from shaped_eval.untrusted.texts import in_markdown

# A card's metadata: the Hub reads a YAML block between two lines of dashes at the very beginning.
_METADATA = re.compile(r"\A\s*---[ \t]*\n(.*?\n|)---[ \t]*(?:\n|\Z)", re.DOTALL)
# A key at the left margin, and what belongs to it: lines that are indented, empty, or items of a
# list.
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
        card: text of a README.md; may be empty, and then begins as a new one.
        model_name: name in the model-index, where it has none yet.
        results: entries of a model-index, each with `task.name`.
        tables: name of a table (no spaces) → Markdown.
        reading: how the tables are to be read, above them.

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
        UserError: it is not YAML, or no mapping.
    """
    card = card.removeprefix("\ufeff").replace("\r\n", "\n")
    match = _METADATA.match(card)
    return (_parsed(match.group(1)), card[match.end() :]) if match else ({}, card)


def with_results_of(before: str, card: str) -> str:
    """A card that was written anew, with the model-index and the section on evaluation of the one
    `before`.

    Raises:
        UserError: as `split_card` does.
    """
    index = split_card(before)[0].get("model-index")
    section = _SECTION.search(before.replace("\r\n", "\n"))
    if index:
        metadata, text = split_card(card)
        card = card_text({**metadata, "model-index": index}, text)
    return card if section is None else f"{_SECTION.sub('', card).rstrip()}\n\n{section.group()}\n"


def card_text(metadata: Mapping[str, Any], text: str) -> str:
    """A card of its metadata and text, as `split_card` gives them."""
    header = yaml.safe_dump(dict(metadata), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{header}---\n{text}"


def _parsed(metadata: str) -> dict[str, Any]:
    try:
        parsed = yaml.safe_load(metadata) or {}
    except yaml.YAMLError as error:
        raise UserError(
            f"README.md: its metadata is not YAML ({' '.join(str(error).split())}): mend it"
        ) from error
    if not isinstance(parsed, dict):
        raise UserError(
            f"README.md: its metadata is {type(parsed).__name__}, not a mapping: mend it"
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
    # written in a form that the pattern does not cover: comments are lost, nothing else
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
    """The index with `results` in place of those of the same task and data set; they go to its
    first model."""
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
            "README.md: its model-index is no list of models with results: mend or remove it"
        ) from error
    return index


def _key(result: Mapping[str, Any]) -> tuple:
    dataset = result["dataset"]
    return result["task"].get("name"), *(dataset.get(name) for name in ("type", "config", "split"))


def with_tables(text: str, tables: Mapping[str, str], reading: str) -> str:
    """A card's text with `tables` in its section on evaluation, at the end where it has none."""
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
