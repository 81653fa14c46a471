r"""Blind answers, which can be given without solving the task, and the forms in which prompts ask
for an answer.

Some are copies of parts of the prompt, such as its formulas. A grader that evaluates answers finds
a copy of what is to be computed right. The mathematics grader refuses most such copies, but not
arithmetic: ``17^9 \div 17^7`` could be an answer.

The set is fixed. Its random parts (random text, another prompt's gold) are drawn from a seed.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

# The same whatever the prompt is.
CONSTANTS = {
    "nothing": "",
    "white space": " \n ",
    **{
        text: text
        for text in (
            *("0", "1", "-1", "nan", "n a n", "nan+nani", "inf"),
            *("True", "False", "None", "Yes", "No", "A"),
        )
    },
    **{text: text for text in ("[]", "[[]]", "{}", "()", '""', "?")},
    "0 to 100": ", ".join(map(str, range(101))),
    "the alphabet": " ".join(string.ascii_uppercase),
    "4,000 characters": "0 " * 2000,
}
RANDOM_WORDS = 8
SEVERAL_GOLDS = 5
FORMULAS = 4  # of a prompt, from its start; its last one is tried as well
LONGEST_FORMULA = 300  # characters

# Words by which a prompt asks for a form, and the form.
_REQUESTS = (
    (re.compile(r"\\boxed"), r"\boxed{…}"),
    (re.compile(r"####"), "#### …"),
    (re.compile(r"<answer>", re.IGNORECASE), "<answer>…</answer>"),
    (re.compile(r"\banswer\s?:", re.IGNORECASE), "Answer: …"),
    (re.compile(r"\banswer is\s?\(", re.IGNORECASE), "The answer is (…)."),
    (re.compile(r"\banswer is\b(?!\s?\()", re.IGNORECASE), "The answer is …."),
    (re.compile(r"```"), "```\n…\n```"),
)
# The form that each grader reads, whatever the prompt asks for.
_READ = {
    "math": r"\boxed{…}",
    "gsm8k": "#### …",
    "choice": "The answer is (…).",
    "exact_match": "The answer is ….",
    "text": "The answer is ….",
    "code": "```python\n…\n```",
    "contest": '```python\nprint("""…""")\n```',
    "reasoning_gym": "Answer: …",
    "running_sums": "answer …",
}
BARE = "…"
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d{1,3}(?:,\d{3}){1,4}(?!\d)|\d++)(?:\.\d++)?(?!\w)")
_EXAMPLE = re.compile(
    r"^[-* \t]{0,20}(?:example\s)?(?:output|answer|result|solution)\b[^:\n]{0,20}:[ \t]*(\S.*)$",
    re.I | re.M,
)
_LABEL = re.compile(r"[\w\s]{1,30}:")
_FORMULA = re.compile(
    r"(?<!\\)\$\$([^$]+)\$\$|(?<![\\$])\$([^$\n]+)(?<!\\)\$"
    r"|\\\(((?:(?!\\[()]).)+)\\\)|\\\[((?:(?!\\[\[\]]).)+)\\\]",
    re.DOTALL,
)


@dataclass(frozen=True)
class BlindAnswer:
    """One answer of the set, for each of the prompts.

    name: its name in the table.
    texts: the answer to each prompt.
    constant: whether all prompts get the same text.
    """

    name: str
    texts: Sequence[str]
    constant: bool


def blind_answers(
    prompts: Sequence[str], golds: Sequence[str] | None, frequent: Sequence[str], seed: int
) -> list[BlindAnswer]:
    """The whole set for these prompts.

    Args:
        prompts: their texts.
        golds: the right answer to each; None where golds are not answers, such as the tests of a
            program.
        frequent: right answers, the most frequent first.
        seed: draws random text, and which prompt's gold another one gets.
    """
    count, rng = len(prompts), random.Random(seed)
    found = [BlindAnswer(name, [text] * count, True) for name, text in CONSTANTS.items()]
    if frequent:
        found.append(
            BlindAnswer(f"most frequent gold {shown(frequent[0])}", [frequent[0]] * count, True)
        )
        several = ", ".join(frequent[:SEVERAL_GOLDS])
        found.append(BlindAnswer("the most frequent golds, joined", [several] * count, True))
    if golds is not None and count > 1:
        shift = rng.randrange(1, count)
        found.append(BlindAnswer("another prompt's gold", [*golds[shift:], *golds[:shift]], False))
    questions = [question(prompt) for prompt in prompts]
    numbers = [_NUMBER.findall(text) for text in questions]
    of_prompt: dict[str, Sequence[str]] = {
        "the prompt": prompts,
        "its question": questions,
        "its last line": [text.rpartition("\n")[2].strip() for text in questions],
        "its numbers": [", ".join(own) for own in numbers],
        "its numbers, with spaces": [" ".join(own) for own in numbers],
        "its last number": [own[-1] if own else "" for own in numbers],
        "nan for its first line's numbers": [_not_numbers(text) for text in questions],
        "its example's answer": [_example(text) for text in questions],
        "random text": [_random_text(rng) for _ in prompts],
        **_formula_answers(questions),
    }
    return found + [BlindAnswer(name, texts, False) for name, texts in of_prompt.items()]


def forms(prompt: str, grader: str | None) -> list[str]:
    """The forms of an answer to this prompt, `BARE` first; `…` stands for the answer."""
    requested = [form for pattern, form in _REQUESTS if pattern.search(prompt)]
    return list(dict.fromkeys([BARE, read_form(grader), *requested]))


def read_form(grader: str | None) -> str:
    """The form that a grader of the evaluation suite always reads; bare for any other reward."""
    return _READ.get(grader or "", BARE)


def write(form: str, answer: str) -> str:
    """The answer in a form."""
    return form.replace(BARE, answer)


def question(prompt: str) -> str:
    """The prompt without the lines about the answer's form: a copy of these would end the
    answer."""
    lines = [line for line in prompt.splitlines() if not _is_about_form(line)]
    return "\n".join(lines).strip() or prompt


def shown(text: str, longest: int = 40) -> str:
    """A text from the data as one short line without control characters."""
    return repr(text if len(text) <= longest else f"{text[:longest]}…")


def _is_about_form(line: str) -> bool:
    return (
        any(pattern.search(line) for pattern, _ in _REQUESTS)
        or _LABEL.fullmatch(line.strip()) is not None
    )


def _example(prompt: str) -> str:
    match = _EXAMPLE.search(prompt)
    return "" if match is None else match[1].strip()


def _formula_answers(questions: Sequence[str]) -> dict[str, list[str]]:
    """The first formulas of each question, and its last; empty where it has not so many.

    There are as many answers as the question with the most formulas needs, `FORMULAS` at most.
    """
    formulas = [_formulas(text) for text in questions]
    most = max(map(len, formulas), default=0)
    answers = {
        f"its formula {index + 1}": [own[index] if index < len(own) else "" for own in formulas]
        for index in range(min(most, FORMULAS))
    }
    if most > 1:
        answers["its last formula"] = [own[-1] if own else "" for own in formulas]
    return answers


def _formulas(text: str) -> list[str]:
    r"""What stands between ``$``, ``$$``, ``\(`` and ``\)``, or ``\[`` and ``\]``, if it is short.

    It is without the punctuation that ends the sentence.
    """
    found = (match[match.lastindex or 0] for match in _FORMULA.finditer(text))
    trimmed = (" ".join(formula.split()).rstrip(" .,;:?") for formula in found)
    return [formula for formula in trimmed if 0 < len(formula) <= LONGEST_FORMULA]


def _not_numbers(text: str) -> str:
    """A list of as many nan as the first line that has numbers has."""
    counts = (len(_NUMBER.findall(line)) for line in text.splitlines())
    return f"[{', '.join(['NaN'] * next(filter(None, counts), 0))}]"


def _random_text(rng: random.Random) -> str:
    words = (
        "".join(rng.choices(string.ascii_lowercase, k=rng.randint(1, 9)))
        for _ in range(RANDOM_WORDS)
    )
    return " ".join(words)
