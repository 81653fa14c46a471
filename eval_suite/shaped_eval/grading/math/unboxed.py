r"""Finds the answer of a text without a box: an ``<answer>`` tag, or a last sentence stating it.

The sentence has one of the forms "The answer is 7", "it is 7", "x = 7", or "... is $7$", without a
word of doubt or comparison. Only closing words, such as "I hope it is correct", may follow. No
other text states an answer; examples are "the answer isn't 7" and "the answer is 7. Sorry, I now
get 8".
"""

from __future__ import annotations

import re

from shaped_eval.grading.math.vocabulary import listed
from shaped_eval.grading.prose import NOT, denies

_TAG = re.compile(r"<answer>([^<]{1,200})</answer>", re.IGNORECASE)
_DISPLAY = re.compile(r"\s{0,20}(?:\\\[(.{1,300}?)\\\]|\$\$([^$]{1,300})\$\$)", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)\s+(?=[A-Z$\\(\"'*])|\n+")
_CLOSING_WORDS = listed(
    "i we hope it this that is are was the a an our my final correct right answer result as "
    "required desired asked for by done qed so thus and hence therefore which thank thanks you "
    "good luck end of solution proof complete checked verified confirmed matches indeed"
)
_QUOTES = " *`\"'“”"
_MARKS = r"[\s*#>\"'“]{0,8}"  # without a minus sign, which belongs to the number
_END = r"[\s.!*\"'”]{0,8}"
_FORMULA = (
    r"(?:\$+([^$\n]{1,200}?(?:\$\s*(?:,|,?\s*and\b|,?\s*or\b)\s*\$[^$\n]{1,200}?){0,8})\$+"
    r"|\\\(([^\n]{1,200}?)\\\)|\\\[([^\n]{1,300}?)\\\])"
)
_PLAIN = r"([^\s$\\][^$\n]{0,60}?)"
_NUMERIC = r"((?:[A-Za-z]\s*=\s*)?-?[\d(\[{.\\][^\n$]{0,60}?|\w{1,20})"
_CLAUSE_WORD = (
    r"(?:so|thus|hence|therefore|and|then|finally|now|in|conclusion|summary|short|we|i|can"
    r"|conclude|see|find|get|have"
    r"|say|think|believe|know|that|this|means|gives|the|my|our|a|final|correct|right|numerical"
    r"|exact|required|desired"
    r"|overall|total)"
)
_LEAD_IN = rf"(?:(?:[^,;:]{{1,200}}[,;:]\s+)*)(?:{_CLAUSE_WORD}\b,?\s+){{0,12}}"
_ANSWER = (
    r"(?:answer|result)(?:\s+to\s+(?:the|this|our)\s+(?:\w+\s+)?(?:question|problem))?"
    r"(?:\s*(?:\*\*)?\s*[:=]\s*(?:\*\*)?|\s+(?:is|are|equals|must\s+be|should\s+be|would\s+be"
    r"|will\s+be)\b)"
)
_EXACTLY = (
    r"(?:\s*(?:also|thus|therefore|then|just|simply|exactly|equal\s+to|given\s+by"
    r"|approximately)\b)?\s*:?\s*"
)
_REASON = r"(?:,?\s+(?:which|because|since|as)\b[^\n]{0,200})?"
_STATEMENT = re.compile(
    rf"{_MARKS}{_LEAD_IN}(?:{_ANSWER}|(?:it|this|that)(?:['’]s|\s+(?:is|equals)\b))"
    rf"{_EXACTLY}(?:{_FORMULA}((?:\s+[^\n]{{0,80}}?)?)|{_PLAIN}){_REASON}{_END}",
    re.IGNORECASE,
)
_INTRODUCED = (
    r"(?:(?:answer|result|value|total|sum|have|get|obtain|find|follows|is|are|thus|therefore|hence"
    r"|so|gives|simplifies"
    r"|evaluates)(?:\s+to)?\s?:)"
)
_ENDS_IN_FORMULA = re.compile(
    rf"[^\n]{{0,400}}\b(?:is|are|be|equals?|get|obtain|have|find|gives?|yields?"
    rf"|{_INTRODUCED}){_EXACTLY}"
    rf"(?:{_FORMULA}|(-?\d[\d.,/]{{0,40}}))((?:\s+[A-Za-z]+){{0,3}}){_END}",
    re.IGNORECASE,
)
_BARE = re.compile(
    rf"{_MARKS}(?:(?:so|thus|hence|therefore)\b,?\s+)?(?:{_FORMULA}|{_NUMERIC}){_END}",
    re.IGNORECASE,
)
_DENIAL = (
    rf"{NOT}|\b(?:no|none|nobody|nothing|without|except|unless|but|if|would|could|might|may"
    rf"|perhaps|maybe|possibly"
    r"|wrong|incorrect|false|mistaken?|mistakes?|error|doubt|unlikely|anything|other|rather"
    r"|instead|guess|sorry|lie)\b"
)
_DENIES = re.compile(_DENIAL, re.IGNORECASE)
_DOUBTS = re.compile(
    rf"{_DENIAL}|\b(?:either|between|less|more|greater|smaller|larger|bigger|fewer|lower|higher"
    rf"|most|least|than|half"
    r"|twice|double|triple|negative|minus|opposite|close|near|about|around|roughly)\b",
    re.IGNORECASE,
)


def stated(tail: str) -> str | None:
    """The answer with the words after it, or None if the text does not end in a statement."""
    tags = list(_TAG.finditer(tail))
    if tags:
        return None if denies("", tail[tags[-1].end() :], tags[-1][1]) else tags[-1][1]
    tail = _DISPLAY.sub(
        lambda display: rf" \[{' '.join((display[1] or display[2]).split())}\]", tail
    )
    sentences = [sentence for sentence in _SENTENCE_END.split(tail) if sentence.strip()]
    while sentences and _is_closing(sentences[-1]):
        sentences.pop()
    if not sentences:
        return None
    *_, before, last = ["", *(sentence.strip() for sentence in sentences)]
    if not before.endswith((".", "!", "?")) and _BARE.fullmatch(last) and _DOUBTS.search(before):
        return None  # the last line continues the one before it, such as "The answer is not"
    return _statement(last)


def _is_closing(sentence: str) -> bool:
    return set(re.findall(r"[^\W_]+", sentence.lower())) <= _CLOSING_WORDS


def _statement(sentence: str) -> str | None:
    if sentence.endswith("?"):
        return None
    for pattern in (_STATEMENT, _ENDS_IN_FORMULA, _BARE):
        if (match := pattern.fullmatch(sentence)) is None:
            continue
        first = next(index for index, group in enumerate(match.groups(), 1) if group is not None)
        end = max(match.end(index) for index in range(first, len(match.groups()) + 1))
        answer = " ".join(group.strip(_QUOTES) for group in match.groups() if group is not None)
        before, after = sentence[: match.start(first)], sentence[end:]
        doubts = _DOUBTS.search(before) or _DENIES.search(after) or _DOUBTS.match(answer)
        return None if doubts else answer
    return None
