r"""What the words around an answer say of it: that it is the answer, or that it is not.

Prose has no grammar that could be listed in full. So a box, which is marked as the answer, counts unless the words and
signs next to it deny it or make it a part of something larger, or what follows takes it back. An answer without a box
counts only in a sentence that has one of the forms listed here, and only at the end, before nothing but a closing word.

Everything here runs in the caller's process on untrusted text: each pattern is bounded, and linear in the text.
"""

from __future__ import annotations

import re

from eval_suite.grading.vocabulary import listed

CONTEXT_CHARACTERS = 160
_OPENS = r"(?:\$+|\\[(\[]|\*\*|\\displaystyle|\\text\{|\{|\s)*"
_CLOSES = r"(?:\$+|\\[)\]]|\*\*|\}|\\[,;:! ]|~|\s)*"
_NOT = r"\b(?:not|never|cannot|neither|nor|hardly|barely|scarcely|nowhere\s+near)\b|n['’]t\b"
_LINKING = (
    r"(?:be|been|to|the|a|an|our|my|final|correct|right|real|answer|value|result|number|is|are|of|that|just|simply|really"
    r"|exactly|equals?|know|think|believe|say|claim|sure|likely|possibly|actually|=|:)"
)
_ALTERED = (
    r"(?:anything\s+but|nothing\s+like|other\s+than|except(?:\s+for)?|rather\s+than|instead\s+of|unlike|far\s+from"
    r"|close\s+to|near|no\s+longer|different\s+from|wrong\s+answer|negative|minus|plus|times|twice|thrice|double|triple"
    r"|(?:half|third|quarter|opposite|inverse|reciprocal|negation|square|square\s+root|cube|cube\s+root|multiple)\s+of|half"
    r"|(?<!no\s)(?<!not\s)(?:more|less|greater|smaller|fewer|larger|bigger|higher|lower)\s+than)"
)
_DENIED_BEFORE = re.compile(rf"(?:(?:{_NOT})|\b{_ALTERED})(?:\s+{_LINKING})*{_OPENS}$", re.IGNORECASE)
# a sign or a command of the formula that the box is in: the whole is another number than what is in the box
_TRANSPARENT = (
    "text|math[a-z]{1,6}|bold[a-z]{0,6}|bm|(?:text)?color|[lL]arge|LARGE|[hH]uge|displaystyle|underline|left|[bB]ig[a-z]?"
    "|q?quad|hspace|f?colorbox|framebox|begin|end|approx|therefore|implies"
)
_PART_BEFORE = re.compile(
    r"(?<![-–])[-−–+±]\$?$"
    r"|(?:[\d)}\]=(\[$,]|\b[a-z])\s{0,4}[-−–+±]\s{0,4}$"
    r"|[/^≠¬√]\s{0,4}\{?$"
    r"|\\(?:times|cdot|div|pm|mp|neq?|not\s{0,4}=?|lnot|neg|sqrt|[bp]?mod)\s{0,4}\{?$"
    rf"|\\(?!(?:{_TRANSPARENT})(?![A-Za-z]))[A-Za-z]{{1,20}}\s{{0,4}}(?:\{{[^{{}}]{{0,40}}\}}\s{{0,4}})?\{{\s{{0,4}}$"
    r"|\d$"
)
_PART_AFTER = re.compile(
    r"(?:\\[,;:! ]|~|\s){0,8}(?:[+/≠]|\*\s{0,4}[\d\\(]|-\s{0,4}[\d\\({A-Za-z]|!\s{0,4}(?:\$|\\[)\]]|=)|\d"
    r"|\\(?:times|cdot|div|pm|mp|neq?|not|choose|over|[bp]?mod)(?![A-Za-z]))"
)
_CONTINUED = re.compile(
    r"(?:\s{0,4}(?:\^|_(?=[\d{]))\s{0,4}(?:\{[^{}]{0,40}\}|\\[A-Za-z]{1,20}|\w|\\?\*)|\s{0,4}(?<=\})!+(?=\s{0,4}(?:\$|\\[)\]]))){1,4}"
)
_SCALE = re.compile(
    rf"{_CLOSES}(hundred|thousand|million|billion|trillion|dozen|score|squared|cubed|factorial|halves|thirds"
    rf"|quarters|fourths|fifths|sixths|sevenths|eighths|ninths|tenths|hundredths|thousandths)\b",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    rf"{_CLOSES}[,;:?.!]?\s{{0,4}}(?:(?:that|this|it|which|but\s+(?:that|this|it))\s+)?"
    rf"(?:(?:is|was|are|were|would\s+be|could\s+be|can|could|seems|looks|might|does|did|has)\s*(?:{_NOT})"
    rf"|(?:(?:is|was|are|were|would\s+be|seems|looks|must\s+be)\s+(?:\w+\s+)?(?:wrong|incorrect|false|mistaken|invalid"
    rf"|impossible|off|untrue|a\s+lie|a\s+guess|an?\s+(?:error|mistake)|too\s+\w+))\b"
    rf"|(?:{_NOT})|(?:wrong|incorrect|false)\b"
    rf"|(?:or|and|to|through|till|until|plus|minus|times|divided\s+by|modulo|mod|[-–])\s+(?:{_OPENS}-?\s?[\d\\.√π]|something|more|less|so\b"
    rf"|another|maybe|perhaps|higher|lower))"
    rf"|{_CLOSES}\?\s",
    re.IGNORECASE,
)
_TAKEN_BACK = re.compile(
    r"\b(?:sorry|oops|apologi[sz]e|scratch\s+that|my\s+mistake|correction|i\s+now\s+(?:get|have|find|think|see|believe)"
    r"|i\s+take\s+(?:it|that|this)\s+back|on\s+second\s+thoughts?|disregard|i\s+(?:was|am|were)\s+(?:wrong|mistaken)"
    r"|i\s+made\s+an?\s+(?:\w+\s+)?(?:mistake|error|slip)|no,?\s+wait|wait,?\s+no|just\s+kidding|(?:i|let\s+me)\s+correct"
    r"|(?:that|this|it|which|the\s+(?:answer|above|result|box(?:ed)?(?:\s+(?:answer|value))?)|above|i|my\s+answer)\s*"
    r"(?:(?:is|was|were|am|are|seems|looks|must\s+be|'s|’s)\s+(?:\w+\s+){0,2}?(?:wrong|incorrect|false|mistaken|invalid"
    r"|not\s+(?:right|correct|true|so|it|the\s+(?:right\s+|correct\s+|final\s+)?answer)|an?\s+(?:error|mistake))"
    r"|(?:isn|wasn)['’]t\s+(?:right|correct|true|so|it|the\s+(?:right\s+|correct\s+|final\s+)?answer))\b"
    r"|(?:actually|instead|rather)\W{1,3}(?:it|the\s+(?:\w+\s+)?answer|that)\s+(?:is|should|must)"
    r"|(?:answer|it|that|this|result)\s+should(?:\s+have)?\s+(?:be|been)\b)",
    re.IGNORECASE,
)


def denies(before: str, after: str, boxed: str) -> bool:
    """Whether what stands before and after a box says that its content is not the answer, or only a part of it."""
    line = before[-CONTEXT_CHARACTERS:]
    if _DENIED_BEFORE.search(line) or _PART_BEFORE.search(line):
        return True
    rest = after[len(_continued(after)) :]
    if _PART_AFTER.match(rest) or _DENIED_AFTER.match(rest[:CONTEXT_CHARACTERS]):
        return True
    return _TAKEN_BACK.search(after) is not None


def continuation(after: str) -> str:
    r"""What continues a box in its formula, as LaTeX to put behind its content: ``\boxed{90}^\circ``."""
    continued = _continued(after)
    scale = _SCALE.match(after[len(continued) :][:CONTEXT_CHARACTERS])
    return continued + (rf"\text{{ {scale[1].lower()}}}" if scale else "")


def _continued(after: str) -> str:
    match = _CONTINUED.match(after)
    return match.group() if match else ""


TAG = re.compile(r"<answer>([^<]{1,200})</answer>", re.IGNORECASE)
_DISPLAY = re.compile(r"\s{0,20}(\\\[|\$\$)\s{0,20}([^\[\]$]{1,300}?)\s{0,20}(\\\]|\$\$)")
_SENTENCE_END = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)\s+(?=[A-Z$\\(\"'*])|\n+")
_CLOSING_WORDS = listed(
    "i we hope it this that is are was the a an our my final correct right answer result as required desired asked for by"
    " done qed so thus and hence therefore which thank thanks you good luck end of solution proof complete checked"
    " verified confirmed matches indeed"
)
_FORMULA = r"(?:\$+([^$\n]{1,200}?)\$+|\\\(([^\n]{1,200}?)\\\)|\\\[([^\n]{1,300}?)\\\])"
_PLAIN = r"([^\s$\\][^$\n]{0,60}?)"
_CLAUSE_WORD = (
    r"(?:so|thus|hence|therefore|and|then|finally|now|in|conclusion|summary|short|we|i|can|conclude|see|find|get|have|say"
    r"|think|believe|know|that|this|means|gives|the|my|our|a|final|correct|right|numerical|exact|required|desired"
    r"|overall|total)"
)
_LEAD_IN = rf"(?:(?:[^,;:]{{1,200}}[,;:]\s+)*)(?:{_CLAUSE_WORD}\b,?\s+){{0,12}}"
_ANSWER = (
    r"(?:answer|result)(?:\s+to\s+(?:the|this|our)\s+(?:\w+\s+)?(?:question|problem))?"
    r"(?:\s*(?:\*\*)?\s*[:=]\s*(?:\*\*)?|\s+(?:is|are|equals|must\s+be|should\s+be|would\s+be|will\s+be)\b)"
)
_EXACTLY = r"(?:\s*(?:also|thus|therefore|then|just|simply|exactly|equal\s+to|given\s+by|approximately)\b)?\s*:?\s*"
_REASON = r"(?:,?\s+(?:which|because|since|as)\b[^\n]{0,200})?"
_STATEMENT = re.compile(
    rf"\W{{0,4}}{_LEAD_IN}(?:{_ANSWER}|(?:it|this|that)(?:['’]s|\s+(?:is|equals)\b)|(?:so|thus|hence|therefore)\b,?)"
    rf"{_EXACTLY}(?:{_FORMULA}((?:\s+[^\n]{{0,80}}?)?)|{_PLAIN}){_REASON}\W{{0,4}}",
    re.IGNORECASE,
)
_ENDS_IN_FORMULA = re.compile(
    rf"[^\n]{{0,400}}(?:\b(?:is|are|be|equals?|get|obtain|have|find|gives?|yields?)|:){_EXACTLY}"
    rf"(?:{_FORMULA}|(-?\d[\d.,/]{{0,40}}))((?:\s+[A-Za-z]+){{0,3}})\W{{0,4}}",
    re.IGNORECASE,
)
_BARE = re.compile(rf"\W{{0,4}}(?:{_FORMULA}|((?:[A-Za-z]\s*=\s*)?-?[\d(\[{{.\\][^\n$]{{0,60}}?|\w{{1,20}}))\W{{0,4}}")
_DENIAL = (
    rf"{_NOT}|\b(?:no|none|nobody|nothing|without|except|unless|but|if|would|could|might|may|perhaps|maybe|possibly"
    r"|wrong|incorrect|false|mistaken?|mistakes?|error|doubt|unlikely|anything|other|rather|instead|guess|sorry|lie)\b"
)
_DENIES = re.compile(_DENIAL, re.IGNORECASE)
_DOUBTS = re.compile(
    rf"{_DENIAL}|\b(?:either|between|less|more|greater|smaller|larger|bigger|fewer|lower|higher|most|least|than|half|twice"
    r"|double|triple|negative|minus|opposite|close|near|about|around|roughly)\b",
    re.IGNORECASE,
)


def stated(tail: str) -> str | None:
    """The answer that a text without a box ends in, or None where its end is no statement of one.

    An ``<answer>`` tag; else the last sentence, but for closing words such as "I hope it is correct", where it reads
    "the answer is 7", "it is 7", "x = 7", or "... is $7$" without a word of doubt or comparison.
    """
    tags = list(TAG.finditer(tail))
    if tags:
        return None if denies("", tail[tags[-1].end() :], tags[-1][1]) else tags[-1][1]
    tail = _DISPLAY.sub(lambda display: rf" \[{' '.join(display[2].split())}\]", tail)
    sentences = [sentence for sentence in _SENTENCE_END.split(tail) if sentence.strip()]
    while sentences and _is_closing(sentences[-1]):
        sentences.pop()
    return _statement(sentences[-1].strip()) if sentences else None


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
        answer = " ".join(group.strip() for group in match.groups() if group is not None)
        before, after = sentence[: match.start(first)], sentence[end:]
        doubts = _DOUBTS.search(before) or _DENIES.search(after) or _DOUBTS.match(answer)
        return None if doubts else answer
    return None
