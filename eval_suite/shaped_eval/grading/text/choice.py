r"""Multiple choice: grades the letter of the option that a completion settles on.

Gold is a letter (``B``, ``(B)``), a letter with the option's text (``(B) a bank``), or only an
option's text. A completion is an option's letter or text, or free text that states one: "the answer
is (B)", "Answer: B", ``\boxed{B}``, "B. a bank", "(B) is the correct answer", "It must be B." A
letter elsewhere does not count. Reasoning in ``<think>`` tags is dropped.
"""

from __future__ import annotations

import re
from collections import deque

from shaped_eval.grading.extract import plain_answer, without_reasoning
from shaped_eval.grading.text.aliases import comparable, normalized
from shaped_eval.grading.text.statements import (
    bare_line,
    final_statement,
    first_answer,
    last_match,
    readings,
)
from shaped_eval.records import Status

_LABELED = re.compile(r"\(?([A-Z])(?:\)|[.:](?=\s|$)|$)\s*(.*)", re.DOTALL)
_MARKUP = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}|[*_`$\"“”]|\\[()\[\]]")
_PREFIX = re.compile(
    r"(?:(?:the|an?|option|choice|letter|definitely|clearly|probably|likely)\s+)*", re.IGNORECASE
)
# A and I may be words, so they count only before something that cannot follow the word.
_LETTER = re.compile(
    r"\(\s?([A-Za-z])\s?(?:\)|$)"
    r"|\[([A-Z])\]"
    r"|([B-HJ-Z])(?![\w'’-])"
    r"|([AI])(?=\s*(?:$|[.,;:)\n]|because\b|since\b|as\b|and\b|which\b|is\b))"
    r"|([a-z])(?=\s*[.)]?\s*$)"
)
# A second option after the first, which is then not an answer. "B, A is wrong" names only one.
_ANOTHER = re.compile(
    r"\s*(?:(?:,\s*(?:and|or)|[,/&]|and\b|or\b)\s*(?:\(([A-Z])\)|([A-HJ-Z])(?![\w'’]))"
    r"|\(([A-Z])\))(?!\s+(?:is|was|are)\b)"
)
_QUOTED = re.compile(r"(?<!\w)['‘]([A-Z])['’](?!\w)")
_IS_CORRECT = re.compile(
    r"\b(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s(?:\(([A-Z])\)|([A-Z]))\sis\s(?:the\s)?(?:correct|right"
    r"|best)\b"
    r"|(?:\(([A-Z])\)|\b([A-Z]))\sis\sthe\s(?:(?:correct|right|best)\s(?:answer|option|choice)"
    r"|answer)\b"
    r"|(?:[Ss]o|[Tt]hus|[Tt]herefore|[Hh]ence),?\s(?:\(([A-Z])\)|([B-HJ-Z]))\sis\s(?:correct"
    r"|right)\b"
    r"|\bI(?:'ll|\swould)?\s(?:choose|pick|select|go\swith)\s(?:option\s)?(?:\(([A-Z])\)"
    r"|([B-HJ-Z]))(?![\w'’])"
)
# a sentence that ends in the letter: "It must be B.", "I think it's B", "Therefore, B."
_ENDS_IN = re.compile(
    r"(?:\b(?:[Ii]t|[Tt]his|[Tt]hat)(?:\s(?:must|should|would|has\sto|have\sto)\sbe|\sis|['’]s)"
    r"|\bI\s(?:think|believe|guess|say|suppose)|\b(?:[Ss]o|[Tt]hus|[Tt]herefore|[Hh]ence),?"
    r"|(?:^|\n|[.!?]\s)(?=(?:[Oo]ption|[Cc]hoice|[Aa]nswer|[Ll]etter)\s))"
    r"\s{0,4}(?:(?:the\s)?(?:[Oo]ption|[Cc]hoice|[Aa]nswer|[Ll]etter)\s)?(?:\(([A-Z])\)|([A-Z]))"
    r"(?=[.!,;]?\s*(?:$|\n)|[.!]\s|,?\s(?:because|since|as)\b)"
)
_DENIED = re.compile(
    r"\b(?:not|never|cannot|doubt|nor|neither|isn|wrong)\b|n['’]t\b", re.IGNORECASE
)
_SENTENCE = re.compile(r"[.!?\n]")
SENTENCE_CHARACTERS = 200
_ONLY = re.compile(r"\(?([A-Za-z])\)?\.?")
_LEADING = re.compile(
    r"\(([A-Z])\)(?!\s(?:and|or|is (?:not|wrong|incorrect|false))\b)|([A-Z])(?:[.):](?=\s|$)|\s*$"
    r"|\s*\n)"
)


def grade(completion: str, gold: str) -> tuple[Status, str | None]:
    """Grade a completion against `gold`.

    `answer` is the option's letter, or its normalised text if gold has no letter. If gold has a
    text, that text alone also passes, and another text fails. If gold is only a letter, a
    completion without a letter is unparsed.
    """
    completion = without_reasoning(completion)
    letter, text = _gold(gold)
    if not gold.strip():
        return "unparsed", None
    own = letter or comparable(text)
    # a single letter is read as a letter, even if an option's text is a single letter
    bare = _ONLY.fullmatch(completion.strip()) is not None
    if completion.strip() == gold.strip() or (
        text and not bare and comparable(completion) == comparable(text)
    ):
        return "pass", own
    if letter is not None:
        found = extract_letter(completion)
        if found is not None:
            return ("pass" if found == letter else "fail"), found
    if not text:
        return "unparsed", None
    statement = final_statement(completion) or bare_line(completion, last=False)
    if statement is None:
        return "unparsed", None
    # markup may be all that an option's text has
    given = [comparable(_unmarked(one)) or comparable(one) for one in readings(statement)]
    if comparable(text) in given:
        return "pass", own
    return ("fail", plain_answer(given[-1])) if normalized(given[-1]) else ("unparsed", None)


def extract_letter(completion: str) -> str | None:
    """The letter of the option that the completion settles on, as a capital, or None."""
    statement = final_statement(completion)
    if statement is not None:
        return _stated(statement) or _called_correct(completion)
    return _called_correct(completion) or _alone(completion)


def _gold(gold: str) -> tuple[str | None, str]:
    labeled = _LABELED.fullmatch(gold.strip())
    return (labeled[1], labeled[2]) if labeled else (None, gold.strip())


def _stated(statement: str) -> str | None:
    statement = _unmarked(statement)
    prefix = _PREFIX.match(statement)
    match = _LETTER.match(statement, prefix.end() if prefix else 0) or _LETTER.match(statement)
    letter = _letter(match)
    another = _letter(_ANOTHER.match(statement, match.end())) if match else None
    return letter if another in (None, letter) else None


def _called_correct(completion: str) -> str | None:
    text = _unmarked(first_answer(completion))
    ends = (match for match in _ENDS_IN.finditer(text) if not _is_denied(text, match.start()))
    return _letter(last_match(_IS_CORRECT, text)) or _letter(
        next(iter(deque(ends, maxlen=1)), None)
    )


def _is_denied(text: str, end: int) -> bool:
    """Whether the sentence contains a negation before this position."""
    before = _SENTENCE.split(text[max(0, end - SENTENCE_CHARACTERS) : end])[-1]
    return _DENIED.search(before) is not None


def _alone(completion: str) -> str | None:
    """A letter that labels the beginning of the completion, or is alone on its last line."""
    text = _unmarked(first_answer(completion))
    only = _ONLY.fullmatch(text)
    if only is not None:
        return only[1].upper()
    return _letter(_LEADING.match(text)) or _letter(
        _LEADING.fullmatch(_unmarked(bare_line(text, last=True) or ""))
    )


def _letter(match: re.Match[str] | None) -> str | None:
    return None if match is None else next(group for group in match.groups() if group).upper()


def _unmarked(text: str) -> str:
    return _QUOTED.sub(r"\1", _MARKUP.sub(lambda match: match[1] or "", text)).strip()
