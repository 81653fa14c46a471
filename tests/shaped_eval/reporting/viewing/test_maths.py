"""Formulas become MathML of an allowlist, and everything else in a text stays the text it is."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree.ElementTree import Element

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shaped_eval.reporting.viewing import latex as latex_commands
from shaped_eval.reporting.viewing import maths
from shaped_eval.reporting.viewing.maths import mathml, pieces, with_maths
from shaped_eval.untrusted.texts import readable

# what MathML Core has, without links, pictures, scripts and embedded HTML
ALLOWED = {
    *("math", "mrow", "mi", "mn", "mo", "mtext", "ms", "mspace", "mfrac", "msqrt", "mroot"),
    *("mstyle", "mpadded", "msub", "msup", "msubsup", "munder", "mover", "munderover"),
    *("mtable", "mtr", "mtd", "span", "code"),
}
PARTS = st.sampled_from(
    [
        *(r"\(", r"\)", r"\[", r"\]", "$", "$$", r"\begin{align}", r"\end{align}", "\\", "\n"),
        *(r"\frac{1}{2}", r"\text{", "}", "{", "^", "_", "&", "<", "x", "12", " ", '"', "'"),
        *(r"\href{javascript:alert(1)}{x}", r"\color{red}", "<script>alert(1)</script>"),
        *("<img src=x onerror=alert(1)>", "&lt;b&gt;", "&#x3c;i&#x3e;", "\u202e", "\0", "\x1b[31m"),
        *(r"\newcommand{\a}{\a\a}\a", r"\unicode{x3c}", r"\style{color:red}{x}", r"\boxed{"),
        *(r"\begin{matrix}a&b\\c\end{matrix}", r"\left(", r"\right)", r"\sqrt[3]{x}", r"\\[2pt]"),
    ]
)


class Markup(HTMLParser):
    """Elements with their attributes, and all text but that of MathML."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.written = ""
        self.shown = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "math" in self.open:
            self.shown += data
        else:
            self.written += data

    def handle_comment(self, data):
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def check(text: str) -> Markup:
    found = Markup(with_maths(text))
    assert found.written == readable(text)
    for tag, attributes in found.elements:
        assert tag in ALLOWED, tag
        for name, value in attributes.items():
            if name == "class":
                assert value in ("tex", "tex display", "box", "struck")
            else:
                assert name in maths._ATTRIBUTES or name in ("display", "width")
                assert re.fullmatch(r"[a-z]{1,6}|[0-2](\.\d{1,3})?(em)?", value), (name, value)
    return found


@given(st.lists(PARTS, max_size=30).map("".join))
def test_only_markup_of_the_allowlist_is_made(text):
    check(text)


@given(st.text(max_size=60))
def test_any_text_stays_what_it_is(text):
    check(text)
    check(f"${text}$")
    check(rf"\({text}\)")
    check(rf"\(\text{{{text}}}\)")


@given(st.lists(PARTS, max_size=30).map("".join))
def test_the_pieces_add_up_to_the_text(text):
    found = list(pieces(text))
    assert "".join(piece.source for piece in found) == text
    for piece in found:
        assert piece.formula is None or piece.formula in piece.source


@pytest.mark.parametrize(
    ("latex", "expected"),
    [
        (r"\frac{a}{b}", "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>"),
        (r"x_1^2", "<msubsup><mi>x</mi><mn>1</mn><mn>2</mn></msubsup>"),
        (r"\sqrt[3]{x}", "<mroot><mrow><mi>x</mi></mrow><mn>3</mn></mroot>"),
        (r"\boxed{42}", '<mrow class="box"><mrow><mn>42</mn></mrow></mrow>'),
        (r"a \le b", "<mi>a</mi><mo>≤</mo><mi>b</mi>"),
        (r"a < b & c", "<mi>a</mi><mo>&lt;</mo><mi>b</mi><mi>&amp;</mi><mi>c</mi>"),
        (
            r"\begin{pmatrix}1&2\end{pmatrix}",
            "<mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>2</mn></mtd></mtr></mtable>",
        ),
        (r"\text{<img src=x>}", "<mtext>&lt;img\xa0src=x&gt;</mtext>"),
        (r"\text{&lt;b&gt;}", "<mtext>&amp;lt;b&amp;gt;</mtext>"),
        (r"\cancel{x}", '<mrow class="struck">'),
    ],
)
def test_formulas_are_rendered(latex, expected):
    assert expected in mathml(latex)


@pytest.mark.parametrize(
    "latex",
    [
        *("\\" + name for name in ("href{http://a}{x}", "newcommand{\\a}{b}\\a", "def\\x{1}\\x")),
        *(
            "\\" + name
            for name in ("style{a:b}{x}", "class{y}{z}", "unknowncommand{x}", "let\\a b")
        ),
        *(r"\DeclareMathOperator{\a}{b}\a", r"\unicode{x3c}", r"\begin{unknown}x\end{unknown}"),
        *(r"\text{\newcommand{\a}{b}}", r"\begin x", "\\", r"\'e", r"\verb|x|"),
        *("x^", "{" * 400 + "}" * 400, "x" * (maths.MOST_FORMULA_CHARACTERS + 1), r"\frac{1}", ""),
        *(r"\left(", r"\begin{matrix}" * 50, "^" * 50, r"\phantom{x}"),
    ],
)
def test_what_cannot_be_read_is_shown_as_it_is_written(latex):
    assert mathml(latex) is None
    assert check(rf"before \({latex}\) after").elements == []


def environments_in_environments(number):
    """Each of them repeats the one before four times."""
    written = r"\newenvironment{a}[1]{#1}{}"
    names = "abcdefghijklmnopqrstuvwxyz"
    for inner, outer in pairwise(names[: number + 1]):
        repeated = rf"\begin{{{inner}}}{{#1#1#1#1}}\end{{{inner}}}"
        written += rf"\newenvironment{{{outer}}}[1]{{{repeated}}}{{}}"
    return written + rf"\begin{{{names[number]}}}{{x}}\end{{{names[number]}}}"


def sets_in_sets(number):
    """The parser writes the operator of each of them twice."""
    return r"\sideset{}{}{" * number + "x" + "}" * number


@pytest.mark.parametrize("bomb", [environments_in_environments, sets_in_sets])
def test_no_formula_grows_beyond_what_it_writes(bomb, monkeypatch):
    """The larger one would never end, so the smaller one shows first that it is not read."""
    from latex2mathml.converter import Converter

    read = []
    monkeypatch.setattr(Converter, "convert_to_element", lambda self, latex: read.append(latex))
    assert mathml(bomb(3)) is None
    assert read == []
    latex = bomb(16)
    assert len(latex) < maths.MOST_FORMULA_CHARACTERS
    assert check(rf"is \[{latex}\] here").elements == []


def test_all_commands_that_are_listed_are_commands_of_the_parser():
    """A misspelt one would never be drawn."""
    from latex2mathml import commands

    constants = {
        name
        for each in vars(commands).values()
        if isinstance(each, str | tuple | dict)
        for name in ([each] if isinstance(each, str) else each)
    }
    listed = {f"\\{name}" for name in latex_commands._COMMANDS}
    assert listed - constants == {r"\of"}  # of \root
    assert not {f"\\{name}" for name in latex_commands._symbols()} & constants
    assert {"alpha", "leq", "rightarrow", "infty", "cdot"} <= latex_commands._symbols()


def test_the_markup_of_a_formula_has_a_limit(monkeypatch):
    longest = len(mathml("x+y+z"))
    for most in (longest, longest - 1):
        monkeypatch.setattr(maths, "MOST_MARKUP_CHARACTERS", most)
        maths.mathml.cache_clear()
        assert (mathml("x+y+z") is None) == (most < longest)
    maths.mathml.cache_clear()


def test_attributes_that_style_or_lead_elsewhere_are_dropped():
    for latex in (r"\color{red;background:url(x)}x", r"\hspace{99em}x", r"\not= 1"):
        found = check(rf"\({latex}\)")
        assert found.elements
        assert not {"mathcolor", "style", "href"} & {
            name for _, names in found.elements for name in names
        }
        assert not [names for _, names in found.elements if "width" in names]


def test_attributes_have_values_of_the_allowlist():
    """Whatever the parser may put there some day."""
    values = {"stretchy": 'true" onload="x', "minsize": "99em", "form": "prefix", "onclick": "x"}
    found = "".join(maths._markup(Element("mo", values)))
    assert found == '<mo form="prefix"></mo>'


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        (r"a \(x\) b \[y\] c", ["x", "y"]),
        ("$x$ and $$y$$", ["x", "y"]),
        (r"is $ \frac{1}{31} \div 2 $.", [r" \frac{1}{31} \div 2 "]),
        ("It costs $5 and $10, or $3.", []),
        ("3*$4=$<<3*4=12>>12", []),
        ("$20 a day is $140 a week, $ 7 more", []),
        ("sold for $10 each and we got back 30$ here", []),
        (r"pays \$5 for $x$", ["x"]),
        (r"a \\[2pt] b \[x\]", ["x"]),
        ("$a\n\nb$", []),
        (r"\( \(x\)", ["x"]),
        (r"$x = 5 \text{ if it rains}$", [r"x = 5 \text{ if it rains}"]),
        (r"\[a $x$ b\]", ["a $x$ b"]),
        (r"\begin{align*}a\end{align*}", [r"\begin{align*}a\end{align*}"]),
        (r"\begin{align}a\end{gather}", []),
        ("$" * 7, []),
        (r"open \( never closed", []),
    ],
)
def test_formulas_are_told_from_prices(text, formulas):
    assert [piece.formula for piece in pieces(text) if piece.formula is not None] == formulas


def test_a_formula_of_its_own_has_its_line_ends():
    found = list(pieces("a\n\n\\[x\\]\n\nb"))
    assert [(piece.source, piece.is_display) for piece in found] == [
        ("a\n", False),
        ("\n\\[x\\]\n", True),
        ("\nb", False),
    ]


def test_a_text_has_a_budget_of_formulas(monkeypatch):
    monkeypatch.setattr(maths, "MOST_CHARACTERS", 3 * len(r"\(x+y\)"))
    found = check(r"\(x+y\)" * 5)
    assert [tag for tag, _ in found.elements].count("math") == 3


def test_a_formula_that_defeats_the_parser_stays_text(monkeypatch):
    from latex2mathml.converter import Converter

    def fail(self, latex):
        raise ZeroDivisionError

    monkeypatch.setattr(Converter, "convert_to_element", fail)
    maths.mathml.cache_clear()
    assert check(r"\(x\)").elements == []
    maths.mathml.cache_clear()
