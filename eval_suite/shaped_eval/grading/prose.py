r"""The text around a box: whether it says that the box is the answer, or that it is not.

Prose has no grammar that could be listed completely. A box, which marks its content as the answer,
therefore counts unless the words and signs next to it deny it or make it part of something larger,
or the text after it takes it back. A text without a box must state its answer in one of the forms
listed in `unboxed`.

Everything here runs in the caller's process on untrusted text, so each pattern is bounded and
linear in the text.
"""

from __future__ import annotations

import re
from collections import deque

from shaped_eval.grading.literals import numbers_equal, parse_number

CONTEXT_CHARACTERS = 160
NOT = (
    r"\b(?:not|never|no\s+way|cannot|neither|nor|hardly|barely|scarcely|nowhere\s+near)\b|n['’]t\b"
)
_OPENS = r"(?:\$|\\[(\[]|\*\*|\\displaystyle|\\text\{|\{|\s)*"
_CLOSES = r"(?:\$|\\(?:text|mathrm|mbox)\{|\\[)\]]|\*\*|\}|\\[,;:! ]|~|\s)*"

# "is not", "twice", "less than" before the box, with only such words between them
_LINKING = (
    r"(?:be|been|to|the|a|an|our|my|final|correct|right|real|answer|value|result|number|is|are|of"
    r"|that|just|simply"
    r"|really|exactly|equals?|know|think|believe|say|claim|sure|likely|possibly|actually"
    r"|it(?:['’]s)?|=|:)"
)
_ALTERING = (
    r"(?:anything\s+but|nothing\s+like|other\s+than|except(?:\s+for)?|rather\s+than|instead\s+of"
    r"|unlike|far\s+from"
    r"|close\s+to|near|no\s+longer|different\s+from|(?:wrong|incorrect|false)\s+answer|negative"
    r"|minus|plus|times"
    r"|twice|thrice|double|triple|half"
    r"|(?:half|third|quarter|opposite|inverse|reciprocal|negation|(?:square|cube)(?:\s+root)?"
    r"|multiple)\s+of"
    r"|(?<!no\s)(?<!not\s)(?:more|less|greater|smaller|fewer|larger|bigger|higher|lower)\s+than)"
)
_DENIED_BEFORE = re.compile(
    rf"(?:(?:{NOT})|\b{_ALTERING})(?:\s+{_LINKING})*{_OPENS}$", re.IGNORECASE
)

# a sign or a command of the formula that contains the box: the formula's value is not the box's
_TRANSPARENT = (  # commands that change only the look of their argument
    r"text|math[a-z]{1,6}|bold[a-z]{0,6}|bm|(?:text)?color|[lL]arge|LARGE|[hH]uge|displaystyle"
    r"|underline|left"
    r"|[bB]ig[a-z]?|q?quad|hspace|f?colorbox|framebox|begin|end|approx|therefore|implies"
)
_PART_BEFORE = re.compile(
    r"(?<![-–])[-−–+±]\$?$"
    r"|(?:[\d)}\]=(\[$,]|\b[a-z])\s{0,4}[-−–+±]\s{0,4}$"
    r"|[/^≠¬√]\s{0,4}\{?$"
    r"|\d$"
    r"|\\(?:times|cdot|div|pm|mp|neq?|not\s{0,4}=?|lnot|neg|sqrt|[bp]?mod)\s{0,4}\{?$"
    rf"|\\(?!(?:{_TRANSPARENT})(?![A-Za-z]))"
    rf"[A-Za-z]{{1,20}}\s{{0,4}}(?:\{{[^{{}}]{{0,40}}\}}\s{{0,4}})?\{{\s{{0,4}}$"
)
_PART_AFTER = re.compile(
    r"(?:\\[,;:! ]|~|\s){0,8}(?:(?:\\right)?[)\]}]){0,3}\s{0,4}"
    r"(?:[+/≠^\d]|,\s{0,4}(?:-?\d|\\(?:frac|sqrt|pi))|\*\s{0,4}[\d\\(]|-\s{0,4}[\d\\({A-Za-z]"
    r"|!\s{0,4}(?:[-+*/^$=]|\\[)\]])|\\(?:times|cdot|div|pm|mp|neq?|not|choose|over"
    r"|[bp]?mod)(?![A-Za-z]))"
)
# all that may stand beside a box in its formula: a relation or a mark before it, and the formula's
# end or a text after it
_BEGINS = re.compile(
    r"(?:^|[=≈≤≥<>:,;&~]|\$|\\[(\[\\,;:! ]|\}|\\(?:q?quad|approx|sim|simeq|equiv|leq?|geq?|lt|gt"
    r"|in|to|implies|iff"
    r"|therefore|because|(?:Long)?[rR]ightarrow|displaystyle|hspace\{[^{}]{0,20}\}"
    rf"|(?:{_TRANSPARENT})\{{))[\s{{]*$"
)
_ENDS = re.compile(
    r"(?:\\[,;:! ]|~|\\q?quad(?![A-Za-z])|[\s}])*(?:$|\$|\\[)\]\\]|[.!?](?!\d)|[,;:]\s*(?:$|\$|\\)"
    r"|=|&|%|\\%|≈"
    r"|\\(?:approx|text[a-z]*|mathrm|mbox|operatorname|end|right|checkmark|blacksquare|square|Box"
    r"|tag|implies|iff"
    r"|Rightarrow|rightarrow|hspace|circ|degree|label|nonumber|bmod|pmod|in)(?![A-Za-z]))"
)
# an exponent, a degree sign, a base or a number word after the box becomes part of its content
_CONTINUED = re.compile(
    r"(?:\s{0,4}(?:\^|_(?=[\d{]))\s{0,4}(?:\{[^{}]{0,40}\}|\\[A-Za-z]{1,20}|\w|\*)){1,4}"
)
_SCALE = re.compile(
    rf"{_CLOSES}(hundred|thousand|million|billion|trillion|dozen|score|squared|cubed|factorial"
    rf"|halves|thirds"
    r"|quarters|fourths|fifths|sixths|sevenths|eighths|ninths|tenths|hundredths|thousandths)\b",
    re.IGNORECASE,
)

# directly after the box: "is wrong", "or 7", "? No"
_WRONG = (
    r"(?:wrong|incorrect|false|mistaken|invalid|impossible|off|untrue|a\s+lie|a\s+guess"
    r"|an?\s+(?:error|mistake)"
    r"|too\s+\w+)"
)
_IS = (
    r"(?:is|was|are|were|would\s+be|could\s+be|can|could|seems|looks|must\s+be|might|does|did|has)"
)
_DENIED_AFTER = re.compile(
    rf"{_CLOSES}(?:\?\s|[,;:?.!]?\s{{0,4}}(?:(?:but\s+)?(?:that|this|it|which)\s+)?"
    rf"(?:{_IS}\s*(?:{NOT})|{_IS}\s+(?:\w+\s+)?{_WRONG}\b|(?:{NOT})|(?:wrong|incorrect|false)\b"
    rf"|no[.,!]"
    r"|(?:or|and|to|through|till|until|plus|minus|times|divided\s+by|modulo|mod|[-–])\s+"
    rf"(?:{_OPENS}-?\s?[\d\\.√π]|something|more|less|so\b|another|maybe|perhaps|higher|lower)))",
    re.IGNORECASE,
)

# anywhere after the box
_OF_THE_ANSWER = r"(?:right|correct|true|so|it|the\s+(?:right\s+|correct\s+|final\s+)?answer)"
_TAKEN_BACK = re.compile(
    r"\b(?:sorry|oops|apologi[sz]e|scratch\s+that|my\s+mistake|correction|disregard|just\s+kidding"
    r"|i\s+now\s+(?:get|have|find|think|see|believe)|i\s+take\s+(?:it|that|this)\s+back"
    r"|on\s+second\s+thoughts?"
    r"|typo|i\s+meant|edit\s?:|actually\W{1,3}-?\d"
    r"|i\s+(?:was|am|were)\s+(?:wrong|mistaken)|i\s+made\s+an?\s+(?:\w+\s+)?(?:mistake|error|slip)"
    r"|no,?\s+wait|wait,?\s+no|(?:i|let\s+me)\s+correct"
    r"|(?:that|this|it|which|above|i|my\s+answer"
    r"|the\s+(?:(?:previous|earlier|last|first|boxed)\s+)?(?:answer|above|result"
    r"|box(?:ed)?(?:\s+(?:answer|value))?))"
    r"\s*(?:(?:is|was|were|am|are|seems|looks|must\s+be|['’]s)\s+(?:\w+\s+){0,2}?(?:wrong"
    r"|incorrect|false|mistaken"
    rf"|invalid|not\s+{_OF_THE_ANSWER}|an?\s+(?:error|mistake))|(?:isn"
    rf"|wasn)['’]t\s+{_OF_THE_ANSWER})\b"
    r"|(?:actually|instead|rather)\W{1,3}(?:it|the\s+(?:\w+\s+)?answer|that)\s+(?:is|should|must)"
    r"|(?:answer|it|that|this|result)\s+should(?:\s+have)?\s+(?:be|been)\b)",
    re.IGNORECASE,
)
_LATER = re.compile(
    r"\banswer(?:\s*\*{0,2}\s?[:=]|\s+(?:is|should\s+be"
    r"|must\s+be)\b)[:\s*$({\\]{0,8}?(-?\d[\d,./]{0,40}?)"
    r"(?=[.,;:]?(?:[\s$)*}\\]|$))",
    re.IGNORECASE,
)


def denies(before: str, after: str, boxed: str) -> bool:
    """Whether the text around a box says that its content is not the answer, or only part of it."""
    line = before[-CONTEXT_CHARACTERS:]
    if _DENIED_BEFORE.search(line) or _PART_BEFORE.search(line):
        return True
    rest = after[len(_continued(after)) :][:CONTEXT_CHARACTERS]
    if _PART_AFTER.match(rest) or _DENIED_AFTER.match(rest):
        return True
    if _is_in_formula(before) and not (_BEGINS.search(line) and _ENDS.match(rest)):
        return True
    return _TAKEN_BACK.search(after) is not None or _contradicts(after, boxed)


def _is_in_formula(before: str) -> bool:
    """Whether a formula is open at the end of this text, in its last paragraph."""
    paragraph = before.rpartition("\n\n")[2].replace("\\$", "").replace("$$", "§")
    opened = any(
        paragraph.rfind(f"\\{mark[0]}") > paragraph.rfind(f"\\{mark[1]}") for mark in ("[]", "()")
    )
    return opened or paragraph.count("$") % 2 == 1 or paragraph.count("§") % 2 == 1


def _contradicts(after: str, boxed: str) -> bool:
    """Whether the last number that the text after a box calls the answer differs from the box."""
    statement = next(iter(deque(_LATER.finditer(after), maxlen=1)), None)
    later = parse_number(statement[1]) if statement else None
    if later is None:
        return False
    earlier = parse_number(boxed)
    if earlier is None:
        return (
            later.style == "exact"
            and re.search(rf"(?<!\d){later.value.numerator}(?!\d)", boxed) is None
        )
    return not numbers_equal(earlier, later)


def continuation(after: str) -> str:
    r"""The text that continues a box in its formula, as LaTeX to append to its content.

    An example is the degree sign in ``\boxed{90}^\circ``.
    """
    continued = _continued(after)
    scale = _SCALE.match(after[len(continued) :][:CONTEXT_CHARACTERS])
    return continued + (rf"\text{{ {scale[1].lower()}}}" if scale else "")


def _continued(after: str) -> str:
    match = _CONTINUED.match(after)
    return match.group() if match else ""
