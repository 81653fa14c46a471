r"""Right and wrong ways to write a gold answer, made from its text alone: no grader takes part.

Each function gives {kind of writing: text}. Numbers are rewritten by value, everything else by its
LaTeX.
"""

from __future__ import annotations

import re
from decimal import Decimal, getcontext
from fractions import Fraction

getcontext().prec = 400


def gold_value(gold: str) -> Fraction | None:
    """The value of a gold that is a plain number, a fraction, or in e-notation; None for others."""
    text = (
        gold.replace(",\\!", "")
        .replace("\\!", "")
        .replace("$", "")
        .replace("\\", "", 1 if "\\$" in gold else 0)
    )
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text).replace(" ", "").replace("_", "base")
    if match := re.fullmatch(r"(-?)\\[dt]?frac(?:\{(\d+)\}|(\d))(?:\{(\d+)\}|(\d))", text):
        sign, a, b, c, d = match.groups()
        return Fraction(int(a or b), int(c or d)) * (-1 if sign else 1)
    try:
        return Fraction(text)
    except ValueError:
        return None


def _decimal(value: Fraction) -> Decimal | None:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return (
        (Decimal(value.numerator) / Decimal(value.denominator)).normalize() if rest == 1 else None
    )


def number_writings(gold: str, value: Fraction) -> dict[str, str]:
    """A number as integer, decimal, fraction, in scientific notation, with units, names, fonts and
    spaces."""
    sign, size = ("-" if value < 0 else ""), abs(value)
    top, bottom = size.numerator, size.denominator
    bare = gold.strip("$")
    ways = {
        "name": f"x = {bare}",
        "function": f"f(2) = {bare}",
        "units": bare + r"\text{ units}",
        "roman unit": bare + r" \mathrm{~m}",
        "approximately": rf"\approx {bare}",
        "period": f"{bare}.",
        "dollars": f"${bare}$",
        "parentheses": rf"\( {bare} \)",
        "bold": rf"\mathbf{{{bare}}}",
        "spaces": f"  {bare} ",
        "twice over two": rf"{sign}\frac{{{2 * top}}}{{{2 * bottom}}}",
    }
    if bottom == 1:
        ways |= {
            "point zero": f"{sign}{top}.00",
            "thousands": f"{sign}{top:,}",
            "words": f"{sign}{top} apples",
        }
        ways["tex thousands"] = sign + f"{top:,}".replace(",", "{,}")
        ways["thin thousands"] = sign + f"{top:,}".replace(",", r"\,")
    else:
        ways |= {
            name: rf"{sign}\{name}{{{top}}}{{{bottom}}}" for name in ("frac", "dfrac", "tfrac")
        }
        ways["slash"] = f"{sign}{top}/{bottom}"
        if top > bottom:
            ways["mixed"] = rf"{sign}{top // bottom}\frac{{{top % bottom}}}{{{bottom}}}"
    decimal = _decimal(size)
    if decimal is not None and size:
        digits = "".join(map(str, decimal.as_tuple().digits))
        exponent = decimal.adjusted()
        factor = digits[0] + ("." + digits[1:] if len(digits) > 1 else "")
        plain = format(decimal, "f")
        ways |= {
            "decimal": sign + plain + ("0" if "." in plain else ".0"),
            "scientific": rf"{sign}{factor} \times 10^{{{exponent}}}",
            "scientific dot": rf"{sign}{factor}\cdot 10^{{{exponent}}}",
            "scientific unit": rf"{sign}{factor} \times 10^{{{exponent}}} \mathrm{{~kg}}",
            "e-notation": f"{sign}{factor}e{exponent}",
            "letter x": f"{sign}{factor} x 10^{{{exponent}}}",
        }
        percent = decimal * 100
        ways["percent"] = sign + format(percent.normalize(), "f") + r"\%"
    return ways


def wrong_numbers(gold: str, value: Fraction) -> dict[str, str]:
    """Neighbours of a number: sign, exponent, factor of 1000, last digit, inverse, a false
    equation."""

    def write(number: Fraction) -> str:
        if number.denominator == 1 and abs(number) < 10**16:
            return str(number.numerator)
        decimal = _decimal(abs(number))
        if decimal is None:
            sign = "-" if number < 0 else ""
            return rf"{sign}\frac{{{abs(number).numerator}}}{{{number.denominator}}}"
        return ("-" if number < 0 else "") + f"{decimal:e}".replace("E", "e")

    ways = {"one more": write(value + 1), "not equal": rf"\ne {write(value)}"}
    if value.denominator == 1 and value > 1:
        ways["square"] = f"{value}^2"
    if value:
        changes = {
            "sign": -value,
            "ten times": 10 * value,
            "a tenth": value / 10,
            "thousand": 1000 * value,
        }
        changes |= {
            "a thousandth": value / 1000,
            "inverse": 1 / value,
            "one percent more": value * Fraction(101, 100),
        }
        ways |= {kind: write(changed) for kind, changed in changes.items()}
        ways["equation"] = f"{write(value)} = {write(2 * value)}"
    mantissa = re.match(r"\D*[\d.]+", gold)
    if mantissa and "frac" not in gold:
        last = mantissa.end() - 1
        ways["last digit"] = (
            gold[:last] + str((int(gold[last]) + 1) % 10) + gold[last + 1 :]
            if gold[last].isdigit()
            else write(value + 1)
        )
    return {kind: text for kind, text in ways.items() if not _is_close(text, value)}


def _is_close(text: str, value: Fraction) -> bool:
    """Within the stated tolerance of scientific notation (relative 1e-4), or the same: not a wrong
    answer."""
    other = gold_value(text)
    return other is not None and abs(other - value) <= abs(value) / 10_000


def top_level_parts(text: str) -> list[str]:
    """The parts between commas outside of brackets."""
    parts, depth, current = [], 0, ""
    for token in re.findall(r"\\[{}]|.", text.replace("$", ""), re.DOTALL):
        depth += (token[-1] in "([{") - (token[-1] in ")]}")
        if token == "," and depth == 0:
            parts.append(current.strip())
            current = ""
        else:
            current += token
    return [*parts, current.strip()]


def expression_writings(gold: str) -> dict[str, str]:
    """An expression, list, tuple, interval, matrix or word in other writings of the same
    meaning."""
    bare = gold[1:-1] if re.fullmatch(r"\$[^$]*\$", gold) else gold
    ways = {
        "dollars": f"${bare}$",
        "period": f"{bare.rstrip('.')}.",
        "display": rf"\displaystyle {bare}",
        "spaces": re.sub(r"([=+,])", r" \1 ", bare),
        "big fractions": bare.replace(r"\frac", r"\dfrac"),
    }
    if "where" not in bare:
        ways["no spaces"] = re.sub(r"(?<![A-Za-z])\s+|\s+(?![A-Za-z])", "", bare)
    if "\\left" in bare:
        ways["no left"] = bare.replace(r"\left", "").replace(r"\right", "")
    elif "(" in bare and not re.search(r"[\[\]]", bare):
        ways["left"] = bare.replace("(", r"\left(").replace(")", r"\right)")
    parts = top_level_parts(bare)
    if len(parts) > 1 and not re.search("where", bare):
        ways |= {
            "reversed": ", ".join(parts[::-1]),
            "and": r" \text{ and } ".join(parts),
            "or": " or ".join(parts),
        }
        ways |= {"set": r"\{" + ", ".join(parts) + r"\}", "semicolons": "; ".join(parts)}
    elif not re.search(r"=|[<>]|\\[lg]e|\\text|\\mbox|\\in(?![a-z])|\{ *\\circ", bare):
        ways["name"] = f"Q = {bare}"
        ways["function"] = f"Q(n) = {bare}"
    if re.search(r"\^\{?\\circ", bare) and len(parts) == 1:
        number = re.sub(r"\^\{?\\circ\}?", "", bare)
        ways |= {
            "no degrees": number,
            "degrees": number + r"\text{ degrees}",
            "degree sign": number + "°",
        }
    if word := re.fullmatch(r"\\text\{\s*\(?(\w+)\)?\}", bare):
        ways |= {
            "bare": word[1],
            "bold": rf"\textbf{{{word[1]}}}",
            "lower": word[1].lower(),
            "round": f"({word[1]})",
        }
    if based := re.fullmatch(r"(\d+)_\{?(\d+)\}?", bare):
        ways |= {
            "braces": f"{based[1]}_{{{based[2]}}}",
            "round": f"({based[1]})_{based[2]}",
            "digits": based[1],
        }
    if "pmatrix" in bare:
        ways["brackets"] = bare.replace("pmatrix", "bmatrix")
        ways["fractions"] = re.sub(r"(\d+)/(\d+)", r"\\frac{\1}{\2}", bare)
    return {kind: text for kind, text in ways.items() if text != gold}


def wrong_expressions(gold: str) -> dict[str, str]:
    """An expression with one integer, sign, function, element, bracket, base or letter changed."""
    bare = gold[1:-1] if re.fullmatch(r"\$[^$]*\$", gold) else gold
    ways = {}
    integers = list(re.finditer(r"(?<![\d_.{A-Za-z])\d+(?![\d.])", bare))
    for kind, match in zip(("first", "last"), (integers[:1] + integers[-1:]), strict=False):
        ways[f"{kind} integer"] = f"{bare[: match.start()]}{int(match[0]) + 1}{bare[match.end() :]}"
    if match := re.search(r"\^\{?(-?\d+)\}?", bare):
        ways["exponent"] = f"{bare[: match.start(1)]}{int(match[1]) + 1}{bare[match.end(1) :]}"
    parts = top_level_parts(bare)
    if len(set(parts)) > 1 and not re.search("where", bare):
        ways["an element less"] = ", ".join(parts[:-1])
        ways["an element more"] = ", ".join(
            [*parts, "(77,78)" if parts[0].startswith("(") else "77"]
        )
    elif not re.search(
        r"=|text|mbox|infty|matrix|\\in|[<>]|^\(|^\\left|^\[|circ|_\{?\d+\}?$", bare
    ):
        ways |= {
            "negative": f"-({bare})",
            "one more": f"{bare}+1",
            "double": f"2({bare})",
            "thousand": f"1000({bare})",
        }
    if "]" in bare and "[" not in bare:
        ways["bracket"] = bare.replace("]", ")")
    for before, after in ((r"\sin", r"\cos"), ("+", "-"), (r"\sqrt", r"\ln")):
        if before in bare:
            ways[f"{before} to {after}"] = bare.replace(before, after, 1)
    if based := re.fullmatch(r"(\d+)_\{?(\d+)\}?", bare):
        ways["base"] = f"{based[1]}_{int(based[2]) + 1}"
    if bare.startswith(r"\text"):
        ways["word"] = r"\text{north}"
    if letter := re.search(r"(?<![A-Za-z\\{_])([np])(?![A-Za-z])", bare):
        ways["letter"] = f"{bare[: letter.start()]}q{bare[letter.end() :]}"
    return ways
