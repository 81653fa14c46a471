r"""Families of wrong writings: each says something else than gold, or leaves gold to be worked out,
in a form that a lenient grader takes for gold.

GOLD stands for a gold answer, OTHER for an answer that differs from it. A family of `BOXED` is
written into a final ``\boxed{}``, one of `COMPLETIONS` is the whole text. `NUMBERS` are for golds
that are plain numbers, boxed as well.
"""

from __future__ import annotations

import re

from writings import gold_value
from wrong_signs import SIGNS
from wrong_words import WORDS

# gold as the result of an operation that is left to the grader, as in a copied question
UNFINISHED = {
    "sum of gold": r"\sum_{n=1}^{1} (GOLD)",
    "product of gold": r"\prod_{n=1}^{1} (GOLD)",
    "limit of gold": r"\lim_{n \to 0} (GOLD)",
    "integral of gold": r"\int_0^1 (GOLD) \, dw",
    "derivative of gold": r"\frac{d}{d w} (w(GOLD))",
    "determinant of gold": r"\begin{vmatrix} GOLD \end{vmatrix}",
    "maximum of gold": r"\max(GOLD, GOLD)",
    "gcd of gold": r"\gcd(GOLD, 0)",
    "floor of gold": r"\lfloor GOLD \rfloor",
    "gold at a point": r"w|_{w=GOLD}",
}
BOXED = WORDS | SIGNS | UNFINISHED

NUMBERS = {
    "digit behind": "GOLD7",
    "digit before": "7GOLD",
    "digits behind a space": "GOLD 777",
    "letter behind": "GOLDx",
    "letter before": "xGOLD",
    "negative": "-(GOLD)",
    "minus in words": "negative of GOLD",
    "square": "(GOLD)^2 + OTHER",
    "factorial of a sum": "(GOLD+1)! + OTHER",
    "thousands": "GOLD,000",
    "thousands with a space": "GOLD, 000",
    "thousand with a word": r"GOLD\text{ thousand}",
    "point": "GOLD.7",
    "exponent": r"GOLD \times 10^{3}",
    "e-notation": "GOLDe3",
    "of another base": "GOLD_{OTHER} + 1",
    "square root": r"\sqrt{GOLD} + OTHER",
    "mixed": r"GOLD\frac{1}{2}",
    "permille": r"GOLD\text{‰}",
    "arabic digits": "GOLD٧",
}

COMPLETIONS = {
    "revoked": "The answer is $GOLD$. Sorry, that is wrong, I now get $OTHER$.",
    "isn't": "The answer isn't $GOLD$.",
    "is not": "The answer is not $GOLD$.",
    "is anything but": "The answer is anything but $GOLD$.",
    "is between": "The answer is between $GOLD$ and $OTHER$.",
    "is never": "The answer is never $GOLD$.",
    "cannot be": "The answer cannot be $GOLD$.",
    "is not equal to": "The answer is not equal to $GOLD$.",
    "is either": "The answer is either $GOLD$ or $OTHER$.",
    "is or": "The answer is $GOLD$ or $OTHER$.",
    "is less than": "The answer is less than $GOLD$.",
    "is twice": "The answer is twice $GOLD$.",
    "is minus": "The answer is minus $GOLD$.",
    "is near": "The answer is near $GOLD$.",
    "is plus": "The answer is $GOLD$ plus $OTHER$.",
    "is wrong": "The answer is $GOLD$, which is wrong.",
    "is squared": "The answer is $GOLD$ squared.",
    "is million": "The answer is $GOLD$ million and $OTHER$.",
    "wait": "The answer is $GOLD$. Wait, no. It is $OTHER$.",
    "then another": "The answer is $GOLD$. The answer is $OTHER$.",
    "question": "Is the answer $GOLD$? No.",
    "asked": "The answer is $GOLD$?",
    "doubt": "I doubt that the answer is $GOLD$.",
    "I do not think": "I do not think that the answer is $GOLD$.",
    "some may think": "Some may think the answer is $GOLD$, but it is $OTHER$.",
    "if": "If I had made a mistake, the answer would be $GOLD$.",
    "not displayed": "The answer is not\n\\[\nGOLD\n\\]",
    "tag denied": "<answer>not GOLD</answer>",
    "tag revoked": "<answer>GOLD</answer> is wrong.",
    "tags": "<answer>GOLD</answer> or <answer>OTHER</answer>",
    "reasoning only": r"<think>The answer is $\boxed{GOLD}$.</think> I am not sure.",
    "reasoning unclosed": r"<think>The answer is $\boxed{GOLD}$.",
    "reasoning only, tag": r"<think>\boxed{GOLD}</think> The answer is $\boxed{OTHER}$.",
    "box denied": r"The answer is not $\boxed{GOLD}$.",
    "box isn't": r"It isn't $\boxed{GOLD}$.",
    "box anything but": r"The answer is anything but $\boxed{GOLD}$.",
    "box is wrong": r"$\boxed{GOLD}$ is wrong.",
    "box is not it": r"$\boxed{GOLD}$ is not the answer.",
    "box revoked": r"The answer is $\boxed{GOLD}$. Sorry, that is wrong, I now get $OTHER$.",
    "box mistaken": r"The answer is $\boxed{GOLD}$. No wait, I made a mistake: it is $OTHER$.",
    "box replaced": r"The answer is $\boxed{GOLD}$. On second thought, it is $\boxed{OTHER}$.",
    "box or box": r"It is $\boxed{GOLD}$ or $\boxed{OTHER}$.",
    "boxes": r"$\boxed{OTHER}$, $\boxed{GOLD}$",
    "boxes without a comma": r"\[\boxed{OTHER} \quad \boxed{GOLD}\]",
    "box minus": r"The answer is $-\boxed{GOLD} - OTHER$.",
    "box in a sum": r"The answer is $OTHER + \boxed{GOLD}$.",
    "sum behind a box": r"The answer is $\boxed{GOLD} + OTHER$.",
    "box to a power": r"The answer is $\boxed{GOLD}^{OTHER}$.",
    "box times": r"The answer is $\boxed{GOLD} \times OTHER$.",
    "box under a root": r"The answer is $\sqrt{\boxed{GOLD}} + OTHER$.",
    "box struck out": r"The answer is $\cancel{\boxed{GOLD}}$.",
    "box or a number": r"It is $\boxed{GOLD}$ or $OTHER$.",
    "box not equal": r"The answer is $\ne \boxed{GOLD}$.",
    "box never closed": r"The answer is $\boxed{GOLD",
    "box asked": r"Is it $\boxed{GOLD}$? No.",
    "box twice": r"It is twice $\boxed{GOLD}$.",
    "boxed earlier": r"One may think $\boxed{GOLD}$. But it is $\boxed{OTHER}$.",
    "number in passing": "We first get $GOLD$ and add something. I do not know the end.",
    "number in a list of steps": "Step 1: $GOLD$. Step 2: $OTHER$.",
    "or so": "The answer is $GOLD$ or so.",
    "at most": "The answer is $GOLD$ at most.",
    "surely not": "The answer is surely not $GOLD$.",
    "Answer not": "Answer: not $GOLD$",
    "(wrong)": "Answer: $GOLD$ (wrong)",
    "Answer or": "Answer: $OTHER$ or $GOLD$",
    "edit": "Answer: $GOLD$\n\nEdit: $OTHER$",
    "made up": "Answer: $GOLD$. I made that up.",
    "of course not": "The answer is, of course, not $GOLD$.",
    "anything": "Anything but this: $GOLD$",
    "exceeds": "The answer exceeds $GOLD$.",
    "differs": "The answer differs from $GOLD$.",
    "forbidden": "Forbidden: $GOLD$",
    "bounded": "x is bounded by $GOLD$.",
    "box no": r"$\boxed{GOLD}$. No.",
    "box lol": r"$\boxed{GOLD}$. Just kidding.",
    "box prev": r"$\boxed{GOLD}$. The previous answer is wrong.",
    "box ignore": r"$\boxed{GOLD}$. Disregard the box.",
    "box actual": r"$\boxed{GOLD}$. The actual answer is $OTHER$.",
    "box final": r"$\boxed{GOLD}$. Final answer: OTHER",
    "box never": r"It is never $\boxed{GOLD}$.",
    "box neither": r"It is neither $\boxed{GOLD}$ nor $OTHER$.",
    "box wrong": r"The wrong answer is $\boxed{GOLD}$.",
    "box maybe": r"It is $\boxed{GOLD}$, or maybe OTHER.",
    "box or so": r"It is $\boxed{GOLD}$ or so.",
    "box not in": r"$x \neq \boxed{GOLD}$",
    "box frac": r"$\frac{\boxed{GOLD}}{OTHER}$",
    "box frac2": r"$\frac{1}{\boxed{GOLD}}+OTHER$",
    "box 2": r"$2\boxed{GOLD}$",
    "box half": r"It is half of $\boxed{GOLD}$.",
    "box neg": r"It is negative $\boxed{GOLD}$.",
    "box less": r"It is less than $\boxed{GOLD}$.",
    "box thousand": r"It is $\boxed{GOLD}$ thousand and OTHER",
    "box!": r"$(\boxed{GOLD})! + OTHER$",
    "box in a pair": "The answer is $(\\boxed{GOLD}, OTHER)$.",
    "box in a set": "The answer is $\\{\\boxed{GOLD}, OTHER\\}$.",
    "box in an interval": "The answer is $[OTHER, \\boxed{GOLD}]$.",
    "box before a letter": "The answer is $\\boxed{GOLD}x$.",
    "box before a constant": "The answer is $\\boxed{GOLD}\\pi$.",
    "box before parentheses": "The answer is $\\boxed{GOLD}(OTHER)$.",
    "box behind a letter": "The answer is $x\\boxed{GOLD}$.",
    "box behind a function": "The answer is $\\sin \\boxed{GOLD}$.",
    "box in a ratio": "The answer is $\\boxed{GOLD} : OTHER$.",
    "box in parentheses, doubled": "The answer is $2(\\boxed{GOLD})$.",
    "box in bars": "The answer is $|\\boxed{GOLD}| - OTHER$.",
    "box of a typo": "The answer is $\\boxed{GOLD}$. That was a typo; I meant $OTHER$.",
    "box, then an edit": "The answer is $\\boxed{GOLD}$. Edit: $OTHER$.",
    "box, then actually": "The answer is $\\boxed{GOLD}$. Actually, $OTHER$.",
    "no way": "No way it's $\\boxed{GOLD}$.",
    "line denied": "The answer is not\n$GOLD$",
    "box comma": r"$\boxed{GOLD}, OTHER$",
}


def plain_gold(gold: str) -> str:
    """A gold without its tolerance and the dollar signs around it."""
    gold = gold.partition("\\tolerance")[0]
    return gold[1:-1] if re.fullmatch(r"\$[^$]*\$", gold) else gold


def wrong_completions(gold: str) -> dict[str, str]:
    """A completion of each family that is made for this gold."""
    bare = plain_gold(gold)
    value = gold_value(bare)
    other = "77" if "77" not in gold and value != 77 else "88"
    boxed = BOXED | (
        {f"number: {name}": text for name, text in NUMBERS.items()} if value is not None else {}
    )
    texts = {name: f"So the answer is $\\boxed{{{text}}}$." for name, text in boxed.items()}
    texts |= {f"completion: {name}": text for name, text in COMPLETIONS.items()}
    return {
        name: text.replace("OTHER", other).replace("GOLD", bare) for name, text in texts.items()
    }
