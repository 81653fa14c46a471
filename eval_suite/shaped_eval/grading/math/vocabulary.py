r"""What a mathematical answer may contain: an allowlist of LaTeX commands and of words.

A word or command that is neither listed here nor in gold makes an answer unreadable, wherever it
stands. Without this check, math-verify's parser would drop what it does not know, and read
``\text{not }5`` and ``\hat{5}`` as 5.
"""

from __future__ import annotations

import re
from functools import lru_cache


def listed(words: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(words.split())


_GREEK = listed(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu "
    "xi pi rho varrho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi "
    "Sigma Upsilon Phi Psi Omega hbar ell"
)
# commands that the parser reads correctly
_COMMANDS = _GREEK | listed(
    "frac dfrac tfrac cfrac sqrt binom dbinom tbinom choose over infty emptyset varnothing circ "
    "mathbb mathcal mathscr mathfrak sin cos tan cot sec csc arcsin arccos arctan arccot sinh "
    "cosh tanh coth log ln lg exp Re Im cdot times div pm mp ast lvert rvert vert mid lbrace "
    "rbrace langle rangle le leq leqslant ge geq geqslant lt gt ne neq in cup setminus begin end "
    "to limits text mathrm mbox operatorname"
)
# Commands, words and environments of operations that the parser would carry out. A copied question
# would then be its own answer, so they are known only in a name before an equals sign, and in an
# answer to a gold that has the same.
_OPERATIONS = listed(
    "sum prod int lim partial nabla dx dy dz dt det vmatrix Vmatrix gcd lcm max min lfloor rfloor "
    "lceil rceil mod bmod pmod cap"
)
# commands in a name before an equals sign: x_{\text{max}}, \vec{v}, \overline{AB}, \angle ABC
_NAME_COMMANDS = _GREEK | listed(
    "vec hat bar overline dot ddot tilde prime widehat overrightarrow mathbf star angle triangle "
    "odot square max min lfloor rfloor lceil rceil mathbb mathcal mathscr mathfrak text mathrm "
    "mbox operatorname partial nabla det"
)
_ENVIRONMENTS = listed("pmatrix bmatrix Bmatrix matrix smallmatrix array cases")
_FUNCTIONS = listed(
    "sin cos tan cot sec csc arcsin arccos arctan arccot sinh cosh tanh coth log ln exp sqrt pi np"
)
# words before an answer: "the final answer is", "approximately"
_LEADING = listed(
    "the a final answer result value solution is are equals equal to so thus hence therefore we "
    "get it approximately approx exactly"
)
# words in a name: "Area of the triangle", "P(red)"
_NAMES = _LEADING | listed(
    "area volume perimeter circumference surface probability number total sum product ratio "
    "length width height depth distance speed velocity time cost price average mean median mode "
    "range angle radius diameter slope side base remainder quotient maximum minimum max min "
    "largest smallest greatest least value of in for and ways population profit age weight mass "
    "amount rate score energy force power temperature pressure density count percentage"
)
_COMMAND = re.compile(r"\\([A-Za-z]+|.)", re.DOTALL)
_CONTROL_SYMBOLS = frozenset("{}|%$!,;:> \\")
_GROUP = re.compile(r"\\(?:text[a-z]*|mathrm|mbox|hbox|operatorname)\s*\*?\s*\{([^{}]*)\}")
_WORD = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}")
_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{([^{}]*)\}(?:\s*\{[lcr|\s]*\})?")
_SUBSCRIPT = re.compile(
    r"_\s*(?:\{(?:\\(?:text|mathrm|mbox)\s*\{[^{}]*\}|[^{}])*\}|\\(?:text|mathrm"
    r"|mbox)\s*\{[^{}]*\})"
)
_DECORATED = re.compile(r"\\[a-z]+\{\\?[A-Za-z]+\}(?=\s*_)")  # \dot{x}_{0}
# marks that are not mathematics, an operator without its other side, and a space between digits
_ODD = re.compile(
    r"[^\x20-\x7e]|[@#?\"`';&~]|\.\s*\.|\d\s+\d|\\\\"
    r"|(?:[=<>+*/^_:(\[-]|\\(?:le|leq|lt|ge|geq|gt|neq?|in|times|cdot|div|pm|mp|to|cup|cap"
    r"|setminus|[pb]?mod))\s*$"
    # subscripts of numbers, evaluation at a point, transposes
    r"|[\d)\]}|]\s*_|\^\s*\{?\s*T(?![A-Za-z])"
    r"|^\s*(?:[<>!/*^_)\],:]|\\(?:le|leq|lt|ge|geq|gt|neq?|in|times|cdot|div|to|cup|cap|setminus"
    r"|[pb]?mod)(?![A-Za-z]))"
)


class _Contents:
    """The parts of gold: commands, environments, words of two or more letters, one-letter symbols,
    odd marks."""

    def __init__(self, gold: str) -> None:
        bare = _GROUP.sub(r" \1 ", _ENVIRONMENT.sub(" ", gold))
        self.commands = frozenset(_COMMAND.findall(gold))
        self.environments = frozenset(match[1] for match in _ENVIRONMENT.finditer(gold))
        self.words = frozenset(word.lower() for word in _WORD.findall(bare))
        without_text = _GROUP.sub(" ", _ENVIRONMENT.sub(" ", gold))
        products = re.findall(r"(?<![A-Za-z\\])[A-Za-z]{1,3}(?![A-Za-z])", without_text)
        self.symbols = frozenset(letter for product in products for letter in product)
        self.odd = frozenset(odd.strip() for odd in _ODD.findall(_ENVIRONMENT.sub(" ", gold)))


def symbols(gold: str) -> frozenset[str]:
    """The letters that are symbols in a gold."""
    return _contents(gold).symbols


@lru_cache(maxsize=1024)
def _contents(gold: str) -> _Contents:
    return _Contents(gold)


def is_leading(words: str) -> bool:
    """Whether these words may stand before an answer without changing it."""
    return re.search(r"[^A-Za-z\s:,.~]", words) is None and _are(words, _LEADING)


def is_name(name: str) -> bool:
    """Whether the text before an equals sign only names what follows."""
    if not all(
        command in _NAME_COMMANDS or command in _CONTROL_SYMBOLS
        for command in _COMMAND.findall(name)
    ):
        return False
    # P(\text{red}), x_{\text{max}}: any words
    outside = re.sub(r"\([^()]*\)$", "", _SUBSCRIPT.sub("", name))
    return all(_are(words, _NAMES) for words in _GROUP.findall(outside))


def _are(words: str, known: frozenset[str]) -> bool:
    return all(word in known for word in re.findall(r"[A-Za-z]+", words.lower()))


def foreign(text: str, gold: str, *, naming: bool = False) -> str | None:
    """The first part of a cleaned answer that is neither mathematics nor in gold, or None.

    The answer is without its name and unit. With `naming`, what may stand in a name is also known,
    and so are operations, because the name may be what was asked for: "the sum of k = 10". Adjacent
    letters are a product if gold has each of them as a symbol, as in ``mn``.
    """
    known = _contents(gold)
    operations = _OPERATIONS if naming else frozenset()
    commands = _COMMANDS | operations | known.commands | _CONTROL_SYMBOLS
    commands |= _NAME_COMMANDS if naming else frozenset()
    environments = [match[1] for match in _ENVIRONMENT.finditer(text)]
    rest = _ENVIRONMENT.sub(lambda match: "(" if match.group().startswith("\\b") else ")", text)
    rest = _DECORATED.sub("x", rest)
    if environments:
        rest = rest.replace("\\\\", ", ").replace("&", ", ")
    known_environments = _ENVIRONMENTS | operations | known.environments
    strange = [name for name in environments if name not in known_environments]
    strange += [
        match.group() for match in _ODD.finditer(rest) if match.group().strip() not in known.odd
    ]
    strange += [f"\\{command}" for command in _COMMAND.findall(rest) if command not in commands]
    for group in _GROUP.findall(rest):
        strange += [group] if re.search(r"[^A-Za-z\s]", group) and group not in gold else []
        strange += [
            word
            for word in re.findall(r"[A-Za-z]+", group)
            if not (_is_golds(word, known) or (naming and word.lower() in _NAMES))
        ]
    strange += [
        word
        for word in _WORD.findall(_GROUP.sub(" ", rest))
        if word.lower() not in _FUNCTIONS | operations
        and not _is_golds(word, known)
        and not set(word) <= known.symbols | {"i", "e"}
    ]
    return strange[0] if strange else None


def _is_golds(word: str, known: _Contents) -> bool:
    return word.lower() in known.words or (len(word) == 1 and word in known.symbols)
