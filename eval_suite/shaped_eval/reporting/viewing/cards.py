"""Samples and problems as HTML, for the report and for the pages of `shaped-trl view`."""

from __future__ import annotations

from shaped_eval.records import Problem
from shaped_eval.reporting.examples import KINDS
from shaped_eval.reporting.viewing.index import UNGRADED, Shown
from shaped_eval.reporting.viewing.maths import with_maths
from shaped_eval.untrusted.texts import in_html, readable, shorten

LABELS = {**KINDS, UNGRADED: "not graded"}
MARKS = {"pass": "✓", "fail": "✗", UNGRADED: "·"}
OTHER_MARK = "?"
HEAD_CHARACTERS = 150_000
TAIL_CHARACTERS = 50_000
NOT_RECORDED = "<p>Prompt: not recorded.</p>"


def source_switch(on: bool = False, name: str = "") -> str:
    """A box that shows formulas as they are written; the style sheet reads it.

    Args:
        on: whether it is ticked at first.
        name: of the field in a form.
    """
    field = f' name="{name}" value="1"' if name else ""
    ticked = " checked" if on else ""
    return (
        f'<label class="switch"><input type="checkbox" class="as-source"{field}{ticked}> Formulas '
        "as they are written</label>"
    )


def text_block(label: str, text: str) -> str:
    """A text with its formulas, under a label."""
    name = in_html(label)
    if not text.strip():
        return f'<div class="code"><div>{name}: empty</div></div>'
    shown = with_maths(shorten(text, HEAD_CHARACTERS, TAIL_CHARACTERS))
    # browsers drop the first newline of a <pre>
    quoted = f'<pre dir="auto" tabindex="0" aria-label="{name}">\n{shown}</pre>'
    return f'<div class="code"><div>{name}</div>\n{quoted}</div>'


def problem_texts(problem: Problem, prompt: str) -> str:
    """What was asked, as far as `prompt` shows it, and the right answer."""
    asked = text_block("Prompt", prompt) if prompt.strip() else NOT_RECORDED
    return f"{asked}\n{text_block('Gold', problem.gold)}"


def sample_texts(shown: Shown) -> str:
    """What the model wrote, and what the grader read in it."""
    answer = "none" if shown.answer is None else shown.answer
    completion = text_block("Completion", shown.sample.completion)
    return completion + (
        "" if shown.status == UNGRADED else "\n" + text_block("Answer found", answer)
    )


def sample_facts(shown: Shown, unit: str, n: int, *first: str) -> str:
    """One line about a sample of `n`, which begins with its verdict and with `first`."""
    facts = [LABELS[shown.status], *first, f"sample {shown.sample.sample_index}"]
    if shown.truncated:
        facts.insert(1, LABELS["length"])
    if shown.length:
        facts.append(f"{shown.length:,} {unit}")
    if shown.same and n > 1:
        facts.append(f"{shown.same:,} of {n:,} give this answer ({shown.agreement})")
    return f'<span class="{tone(shown.status)}">{mark(shown.status)}</span> ' + in_html(
        " · ".join(facts)
    )


def mark(status: str) -> str:
    """A character for a verdict, which does not depend on its colour."""
    return MARKS.get(status, OTHER_MARK)


def tone(status: str) -> str:
    """The class of a verdict in the style sheet."""
    return {"pass": "right", "fail": "wrong"}.get(status, "other")


def first_line(text: str, most: int = 90) -> str:
    """The beginning of a text in one line."""
    line = " ".join(readable(text[: 4 * most]).split())
    return line if len(line) <= most else f"{line[:most]}…"
