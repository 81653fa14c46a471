r"""Families of right writings: each says what gold says, in a form that answers of models have.

As in `wrong_families`, GOLD stands for a gold answer, `BOXED` is written into a final ``\boxed{}``,
`COMPLETIONS` is the whole text. `VALUES` are for golds that are one value (no list, equation or
words), `NUMBERS` for plain numbers.
"""

from __future__ import annotations

import re

from writings import expression_writings, gold_value, number_writings, top_level_parts
from wrong_families import plain_gold

BOXED = {
    "as it is": "GOLD",
    "dollars": "$GOLD$",
    "display style": r"\displaystyle GOLD",
    "period": "GOLD.",
    "approximately": r"\approx GOLD",
    "the answer is": r"\text{The answer is } GOLD",
    "final answer": r"\text{Final answer: } GOLD",
    "equals": "= GOLD",
    "therefore": r"\therefore GOLD",
    "bold": r"\mathbf{GOLD}",
    "bold symbol": r"\boldsymbol{GOLD}",
    "underlined": r"\underline{GOLD}",
    "large": r"\large GOLD",
    "blue": r"\color{blue}{GOLD}",
    "text colour": r"\textcolor{red}{GOLD}",
    "box in a box": r"\boxed{GOLD}",
    "parentheses": "(GOLD)",
    "left and right": r"\left(GOLD\right)",
    "braces": "{GOLD}",
    "ensure": r"\ensuremath{GOLD}",
    "thin spaces": r"\, GOLD \;",
    "negative space": r"GOLD\!",
    "quad": r"\quad GOLD",
    "lines": "\nGOLD\n",
    "line break": r"GOLD \\",
    "zero-width space": "\u200bGOLD",
}
VALUES = {
    "name": "x = GOLD",
    "name with an index": r"v_{\text{max}} = GOLD",
    "function": "f(2) = GOLD",
    "probability": r"P(\text{not red}) = GOLD",
    "segment": "AB = GOLD",
    "angle": r"\angle ABC = GOLD",
    "vector": r"|\vec{v}| = GOLD",
    "sum asked for": "a + b = GOLD",
    "area": r"\text{Area} = GOLD",
    "number of ways": r"\text{number of ways} = GOLD",
    "approximate name": r"x \approx GOLD",
    "itself twice": "GOLD = GOLD",
    "exactly": r"\text{exactly } GOLD",
}
NUMBERS = {
    "metres": r"GOLD\text{ m}",
    "kilometres": r"GOLD~\text{km}",
    "upright unit": r"GOLD\,\mathrm{cm}",
    "square metres": r"GOLD\text{ m}^2",
    "square feet": r"GOLD\text{ square feet}",
    "per hour": r"GOLD\text{ miles per hour}",
    "slash": r"GOLD\ \text{km/h}",
    "acceleration": r"GOLD\ \mathrm{m/s^2}",
    "seconds": r"GOLD\text{ seconds}",
    "newtons": r"GOLD\ \mathrm{N}",
    "dollar sign": r"\$GOLD",
    "dollars in words": r"GOLD\text{ dollars}",
    "bare unit": "GOLD cm",
    "bare word": "GOLD hours",
    "students": r"GOLD\text{ students}",
    "pages": "GOLD pages",
    "ways": r"GOLD\text{ different ways}",
    "integers": r"GOLD\text{ positive integers}",
    "units": r"GOLD\text{ units}",
    "square units": r"GOLD\text{ square units}",
    "in total": r"GOLD\text{ apples total}",
    "percent sign": r"GOLD\%",
    "no-break space": "GOLD\u00a0cm",
}
COMPLETIONS = {
    "bare box": "So \\boxed{GOLD}",
    "display": "Therefore\n\\[\n\\boxed{GOLD}\n\\]\n",
    "display with a name": "\\[x = \\boxed{GOLD}.\\]",
    "double dollars": "$$\\boxed{GOLD}$$",
    "bold heading": "**Final answer:** $\\boxed{GOLD}$",
    "bold box": "**$\\boxed{GOLD}$**",
    "fbox": "\\fbox{GOLD}",
    "bullet": "- $\\boxed{GOLD}$",
    "colon": "Answer:\\boxed{GOLD}",
    "Minerva's": "The final answer is $GOLD$. I hope it is correct.",
    "stated": "So the answer is $GOLD$.",
    "Answer:": "Answer: $GOLD$",
    "hence": "Hence, the answer is: $GOLD$",
    "it is": "It is $GOLD$.",
    "we conclude": "We conclude that the answer is $GOLD$.",
    "ends in a formula": "The sum of all of them is $GOLD$.",
    "ends in a display": "So we get\n\\[\nGOLD\n\\]",
    "tag": "<answer>GOLD</answer>",
    "after reasoning": "<think>Maybe $\\boxed{77}$? No, that is wrong.</think>\nThe answer is $\\boxed{GOLD}$.",
    "after reasoning that a template opened": "Maybe 77, sorry.</think>\\boxed{GOLD}",
    "after reasoning, without a box": "<think>$77$?</think>The answer is $GOLD$.",
    "after another": "First we get \\boxed{77}. That is wrong, so the answer is \\boxed{GOLD}.",
    "after a denial": "It is not $77$. The answer is $\\boxed{GOLD}$.",
    "unit outside": "It takes $\\boxed{GOLD}$ minutes to catch it.",
    "called final": "$\\boxed{GOLD}$ is the final answer.",
    "checked": "The answer is $\\boxed{GOLD}$.\n\nLet me verify: this satisfies the equation.",
    "repeated": "\\[\\boxed{GOLD}\\]\n\nSo the answer is $\\boxed{GOLD}$.",
    "next question": "The answer is \\boxed{GOLD}.\n\nProblem: 3+5?\nSolution: \\boxed{8}",
    "called correct": "The correct answer is $\\boxed{GOLD}$.",
    "as required": "The sum is therefore equal to $\\boxed{GOLD}$, as required.",
    "not in what it counts": "So the number of those that are not prime is $\\boxed{GOLD}$.",
    "at least": "Hence we need at least $\\boxed{GOLD}$ of them.",
}


def right_completions(gold: str) -> dict[str, str]:
    """A completion of each family that is made for this gold."""
    bare = plain_gold(gold)
    value = gold_value(bare)
    boxed = dict(BOXED)
    if len(top_level_parts(bare)) == 1 and not re.search(
        r"=|[<>]|\\[lg]e|\\in(?![a-z])|\\text|\\mbox|,|\$", bare
    ):
        boxed |= {f"value: {name}": text for name, text in VALUES.items()}
    if value is not None:
        boxed |= {f"number: {name}": text for name, text in NUMBERS.items()}
    boxed = {name: text.replace("GOLD", bare) for name, text in boxed.items()}
    written = expression_writings(gold) if value is None else number_writings(bare, value)
    boxed |= {f"writing: {name}": text for name, text in written.items()}
    texts = {name: f"So the answer is $\\boxed{{{text}}}$." for name, text in boxed.items()}
    return texts | {
        f"completion: {name}": text.replace("GOLD", bare) for name, text in COMPLETIONS.items()
    }
