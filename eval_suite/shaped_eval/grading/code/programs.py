r"""Finds the program in a completion, as text and in linear time. Nothing here parses or runs it.

The result is a list of programs, best first. The sandbox takes the first one that defines the
function, and runs only what the function needs (`sandbox.selection`). A completion may be

- a continuation of the prompt, as base models give it, either whole or cut after the function;
- a program, alone or between lines of prose;
- a chat answer: the last ``` block that defines the function, after earlier blocks that only define
other things.

Reasoning up to ``</think>`` is dropped. Programs follow the prompt's own lines (its imports and
helper functions, and for a continuation its signature), which a later definition replaces.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

_LANGUAGES = ("", "py", "python", "python3", "py3", "python2", "ipython")
_DEFINITION = re.compile(
    r"(?:def|class|async def)\s+\w|@\w|(?:import\s+\w|from\s+[\w.]+\s+import\b)"
)
_CODE = re.compile(
    r"(?:def|class|async|for|while|if|with|assert|return|print|try|else|elif|except|finally|raise"
    r"|pass|yield|global)\b"
    r"|@\w|import\s+\w|from\s+[\w.]+\s+import\b|[#)\]}]|\"\"\"|'''|[\w.\[\]'\", ]{1,80}[+*/"
    r"|&-]?=[^=]"
)
AFTER_FUNCTION = (
    "\ndef ",
    "\nclass ",
    "\nif ",
    "\nprint",
    "\nassert ",
    "\n#",
    "\n@",
    "\nimport ",
    "\nfrom ",
    "\n```",
)
# the marks in the prompt of MBPP
_BEGIN = "[BEGIN]"
_DONE = "[DONE]"


@dataclass(frozen=True)
class _Block:
    language: str
    text: str


def find_programs(
    completion: str, entry_point: str, preamble: str = "", continues: bool = False
) -> list[str]:
    """The programs that the completion may mean, best first; empty if it contains no code.

    Args:
        completion: the text that a model wrote.
        entry_point: the requested function; "" if it has no name.
        preamble: code before every program: the prompt's code, or its imports.
        continues: whether the completion may be the rest of `preamble`, inside a function.
    """
    text = completion.rpartition("</think>")[2].replace("\r\n", "\n")
    text = _between_marks(text)
    head, blocks = _split(text)
    if not blocks:
        return _without_fences(text, entry_point, preamble, continues)
    if (
        continues
        and _is_indented(head)
        and not any(_defines(block.text, entry_point) for block in blocks)
    ):
        return _continuations(head, preamble)
    python = [block for block in blocks if block.language.lower() in _LANGUAGES] or blocks
    defining = [index for index, block in enumerate(python) if _defines(block.text, entry_point)]
    if not defining:
        if continues and _is_indented(python[0].text):
            return _continuations(python[0].text, preamble)
        return _after(preamble, ["\n".join(block.text for block in python), python[0].text])
    last = defining[-1]
    others = set(range(last)).difference(defining)
    helpers = [
        python[index].text for index in sorted(others) if _DEFINITION.match(python[index].text)
    ]
    chosen = python[last].text
    earlier = [python[index].text for index in defining[-2::-1]]  # in case the last one is a stub
    return _after(preamble, ["\n".join([*helpers, chosen]), chosen, *_trimmed(chosen), *earlier])


def find_scripts(completion: str) -> list[str]:
    """The whole programs that the completion may mean, best first; empty if it contains no code.

    Of several ``` blocks the last one counts, as in LiveCodeBench: a program that reads its input
    cannot be put together from several. A text without blocks is the program.
    """
    text = completion.rpartition("</think>")[2].replace("\r\n", "\n")
    _, blocks = _split(text)
    if not blocks:
        return _without_fences(text, "", "", continues=False)
    python = [block.text for block in blocks if block.language.lower() in _LANGUAGES]
    return [text for text in python if text.strip()][-1:]


def _between_marks(text: str) -> str:
    """The text between the lines [BEGIN] and [DONE], or after or before the one that exists."""
    lines = text.split("\n")
    for mark, after in ((_BEGIN, True), (_DONE, False)):
        found = [index for index, line in enumerate(lines) if line.strip() == mark]
        if found:
            lines = lines[found[0] + 1 :] if after else lines[: found[0]]
    return "\n".join(lines)


def _without_fences(text: str, entry_point: str, preamble: str, continues: bool) -> list[str]:
    if not any(
        _is_code(line) or (continues and line[:1] in " \t" and line.strip())
        for line in text.split("\n")
    ):
        return []
    if continues and not _defines(text, entry_point):
        return _continuations(text, preamble)
    return _after(preamble, [text, *_trimmed(text)])


def _continuations(text: str, preamble: str) -> list[str]:
    """The rest of a function: whole, then without the code after the function.

    If its first line has lost its indentation, versions with that indentation are added.
    """
    cuts = [position for position in map(text.find, AFTER_FUNCTION) if position > 0]
    texts = [text, text[: min(cuts)]] if cuts else [text]
    first_line = next((line for line in text.split("\n") if line.strip()), "")
    if first_line[:1] not in (" ", "\t"):
        texts += ["    " + part.lstrip() for part in texts]
    return [
        preamble + ("" if preamble.endswith("\n") or part.startswith("\n") else "\n") + part
        for part in texts
    ]


def _after(preamble: str, texts: Sequence[str]) -> list[str]:
    """Each text after the preamble, then alone, because a ``__future__`` import must come first."""
    distinct = [text for text in dict.fromkeys(texts) if text.strip()]
    if not preamble.strip():
        return distinct
    return [f"{preamble}\n\n{text}" for text in distinct] + distinct


def _trimmed(text: str) -> list[str]:
    """The lines from the first definition or import on, then these without the prose after them."""
    lines = text.split("\n")
    start = next((index for index, line in enumerate(lines) if _DEFINITION.match(line)), None)
    if start is None:
        return []
    end = next(
        (
            index
            for index, line in enumerate(lines[start:], start)
            if line.strip() and line[0] not in " \t" and not _is_code(line)
        ),
        len(lines),
    )
    return ["\n".join(lines[start:]), "\n".join(lines[start:end])]


def _split(text: str) -> tuple[str, list[_Block]]:
    """The text before the first fence, and the blocks between fences.

    A block that is never closed ends with the text.
    """
    head: list[str] = []
    blocks: list[_Block] = []
    current: list[str] | None = None
    language = ""
    for line in text.split("\n"):
        info = _fence_info(line)
        if info is None:
            if current is not None:
                current.append(line)
            elif not blocks:
                head.append(line)
        elif current is None:
            language = info
            current = []
        else:
            blocks.append(_block(language, current))
            current = None
    if current is not None:
        blocks.append(_block(language, current))
    return "\n".join(head), blocks


def _fence_info(line: str) -> str | None:
    """The language after a fence, which may be ""; None for a line that is not a fence."""
    line = line.strip()
    if not line.startswith(("```", "~~~")):
        return None
    info = line.lstrip(line[0]).strip()
    return None if "`" in info else (info.split() or [""])[0]


def _block(language: str, lines: list[str]) -> _Block:
    text = "\n".join(lines)
    dedented = textwrap.dedent(text)
    return _Block(language, dedented if _DEFINITION.search(dedented) else text)


def _defines(text: str, entry_point: str) -> bool:
    if not entry_point:
        return bool(text.strip())
    name = re.escape(entry_point)
    return (
        re.search(rf"^(?:(?:async )?def\s+|class\s+){name}\b|^{name}\s*=[^=]", text, re.MULTILINE)
        is not None
    )


def _is_code(line: str) -> bool:
    return _CODE.match(line) is not None


def _is_indented(text: str) -> bool:
    first_line = next((line for line in text.split("\n") if line.strip()), "")
    return first_line[:1] in (" ", "\t") and first_line != ""
