"""The LaTeX that is drawn: the commands and environments that a foreign formula may have.

latex2mathml also has commands that define others, and some that repeat what they are given. With
these, a formula of some hundred characters grows to gigabytes. Nothing listed here does that: what
is drawn is at most in proportion to what is written.
"""

from __future__ import annotations

import re
from functools import cache

_NAMES_OF_COMMANDS = """
    arccos arcctg arcsin arctan arctg argmax argmin ch cos cosec cosh cot cotg coth csc ctg cth deg
    det dim exp gcd hom inf injlim ker lg lim liminf limsup ln log max min plim Pr projlim sec sh
    sin sinh sup tan tanh tg th varinjlim varliminf varlimsup varprojlim
    bmod mod operatorname operatornamewithlimits pmod pod
    idotsint int intop limits nolimits prod sum

    atop binom brace brack cfrac choose dbinom dfrac frac of over root sqrt tbinom tfrac

    acute bar breve check ddddot dddot ddot dot grave hat mathring tilde vec widecheck widehat
    widetilde dprime not prime qprime trprime
    overbrace overbracket overleftarrow overleftrightarrow overline overparen overrightarrow overset
    stackrel underbar underbrace underbracket underleftarrow underleftrightarrow underline
    underparen underrightarrow underset
    xhookleftarrow xhookrightarrow xleftarrow xLeftarrow xleftharpoondown xleftharpoonup
    xleftrightarrow xLeftrightarrow xleftrightharpoons xlongequal xmapsto xrightarrow xRightarrow
    xrightharpoondown xrightharpoonup xrightleftharpoons xtofrom xtwoheadleftarrow
    xtwoheadrightarrow

    big Big bigg Bigg biggl Biggl biggm Biggm biggr Biggr bigl Bigl bigm Bigm bigr Bigr left middle
    right bra braket ket

    Bbb bf bm bold boldsymbol cal frak it mathbb mathbf mathcal mathfrak mathit mathnormal mathrm
    mathscr mathsf mathsfit mathtt mit oldstyle pmb rm scr sf tt
    mathbin mathclose mathinner mathop mathopen mathord mathpunct mathrel
    emph hbox mbox tag text textbf textit textmd textnormal textrm textsf texttt textup
    bcancel boxed cancel fbox sout xcancel color textcolor
    displaystyle scriptscriptstyle scriptstyle textstyle footnotesize huge Huge large Large LARGE
    normalsize scriptsize small tiny Tiny LaTeX TeX

    array Bmatrix bmatrix cases displaylines eqalign eqalignno matrix pmatrix smallmatrix split
    substack Vmatrix vmatrix cr hdashline hfil hline nonumber notag

    enspace hskip hspace kern mkern mskip mspace negmedspace negthickspace negthinspace nobreakspace
    qquad quad space Space thickspace thinspace
"""
_NAMES_OF_ENVIRONMENTS = """
    align align* aligned array Bmatrix Bmatrix* bmatrix bmatrix* cases equation equation* gather
    gather* gathered matrix matrix* multline multline* pmatrix pmatrix* smallmatrix split Vmatrix
    Vmatrix* vmatrix vmatrix*
"""
_COMMANDS = frozenset(_NAMES_OF_COMMANDS.split())
_ENVIRONMENTS = frozenset(_NAMES_OF_ENVIRONMENTS.split())
_SIGNS = frozenset("\\()[]{} \t\n!,:>;|_%#$&")  # those that a backslash may stand before
_PARTS = re.compile(
    r"\\(?:(?:begin|end)\s*\{(?P<environment>[A-Za-z]+\*?)\}|(?P<command>[A-Za-z]+)|(?P<sign>.?))",
    re.DOTALL,
)


def is_known(latex: str) -> bool:
    """Whether each command of a formula, also of the text in it, is one that is drawn."""
    for part in _PARTS.finditer(latex):
        environment, command, sign = part.group("environment", "command", "sign")
        if environment is not None:
            known = environment in _ENVIRONMENTS
        elif command is not None:
            known = command in _COMMANDS or command in _symbols()
        else:
            known = sign in _SIGNS
        if not known:
            return False
    return True


@cache
def _symbols() -> frozenset[str]:
    """The commands that stand for one character each and do nothing else."""
    from latex2mathml import commands
    from latex2mathml.symbols_parser import SYMBOLS

    # Some names in the table of characters are accents and the like: those have to be listed above.
    constants = [each for each in vars(commands).values() if isinstance(each, str | tuple | dict)]
    effects = {name for each in constants for name in ([each] if isinstance(each, str) else each)}
    return frozenset(name[1:] for name in SYMBOLS if name[0] == "\\" and name not in effects)
