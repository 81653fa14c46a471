"""Foreign texts on a terminal, in Markdown and in HTML, where nothing in them has an effect."""

from __future__ import annotations

import html
import re

# Control characters except tab and newline, bidirectional marks and overrides, invisible
# separators, and lone surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e0fff]"
)
# What Markdown reads as plain text anywhere in a line. An underscore inside a word is plain.
_PLAIN = r"[^\W_]|[ ,;=%/+()'\"?-]|(?<=[^\W_])_(?=[^\W_])|(?<!www)\.|:(?!//)"
_MARKUP = re.compile(rf"(?!{_PLAIN})[!-/:-@\[-`{{-~]", re.IGNORECASE)


def visible(text: str) -> str:
    """`text` with invisible characters replaced by their code, as ``[U+202E]``.

    Tabs and newlines stay.
    """
    return _UNPRINTABLE.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)


def readable(text: str) -> str:
    """`text` with line ends as newlines, and with invisible characters replaced by their code."""
    return visible(text.replace("\r\n", "\n").replace("\r", "\n"))


def one_line(text: str) -> str:
    """`text` as one line that has no effect on a terminal except to be shown."""
    return " ".join(readable(text).split())


def in_html(text: str) -> str:
    """`readable` text in an element of HTML or in a quoted attribute."""
    return html.escape(readable(text))


def in_markdown(text: object) -> str:
    """A foreign name inside a line of Markdown: no markup, link, HTML, cell end or new line."""
    return _MARKUP.sub(
        lambda match: {"<": "&lt;", "&": "&amp;"}.get(match[0], rf"\{match[0]}"),
        one_line(str(text)),
    )


def as_code(name: str) -> str:
    """`in_markdown`, set as code if `name` contains no markup."""
    escaped = in_markdown(name)
    return f"`{name}`" if escaped == name else escaped


def fenced(text: str, language: str) -> str:
    """`text` as a fenced block of code in Markdown, which nothing in it can end."""
    text = readable(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def encodable(text: str) -> str:
    """`text` with lone surrogates, which JSON can hold but UTF-8 cannot, replaced by U+FFFD."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def shorten(text: str, head: int, tail: int) -> str:
    """`text` whole where it fits, else its beginning and its end with a note of what was left
    out."""
    left_out = len(text) - head - tail
    if left_out <= 0:
        return text
    return f"{text[:head]}\n[… {left_out:,} characters left out …]\n{text[len(text) - tail :]}"
