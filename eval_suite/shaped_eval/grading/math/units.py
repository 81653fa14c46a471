r"""Units after an answer: ``15\text{ cm}^2`` is the number 15 with a unit of area.

The words that may follow an answer as its unit are listed here: units of measurement, things that
are counted, and a few words that change nothing (`SAME`). Anything else is not a unit. An answer
may omit the unit, or have one where gold has none, as most data sets do. If both have one, they
must be the same or convert into each other.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from shaped_eval.grading.math.vocabulary import listed

_TABLE: dict[str, dict[str, str]] = {
    "length": {
        "1": "m meter metre",
        "1/1000": "mm millimeter millimetre",
        "1/100": "cm centimeter centimetre",
        "1000": "km kilometer kilometre",
        "0.0254": "in inch inche",
        "0.3048": "ft foot feet",
        "0.9144": "yd yard",
        "1609.344": "mi mile",
        "1/1000000": "micrometer micron",
        "1/1000000000": "nm nanometer",
        "1/10": "dm decimeter",
    },
    "mass": {
        "1": "kg kilogram",
        "1/1000": "g gram",
        "1/1000000": "mg milligram",
        "0.45359237": "lb pound",
        "0.028349523125": "oz ounce",
    },
    "time": {
        "1": "s sec second",
        "60": "min minute",
        "3600": "h hr hour",
        "86400": "day",
        "604800": "week",
        "1/1000": "ms millisecond",
    },
    "money": {"1": "cent ¢", "100": "dollar usd"},
    "angle": {"1": "degree deg"},
    "volume": {"1": "L l liter litre", "1/1000": "mL ml milliliter millilitre"},
}
_UNITS = {
    name: (dimension, Fraction(factor))
    for dimension, factors in _TABLE.items()
    for factor, names in factors.items()
    for name in names.split()
}
# units that are not converted; capitals matter in short names
_OTHERS = listed(
    "radian rad month year yr decade century fortnight J kJ joule N newton W kW watt V volt A "
    "amp ampere K kelvin C coulomb celsius fahrenheit F farad Pa kPa pascal atm bar Hz kHz MHz "
    "GHz hertz eV keV MeV GeV electronvolt erg cal kcal calorie mol mole T tesla gauss H henry "
    "ohm lx lumen dB rpm mph kph kmh kmph gal gallon quart pint cup ton tonne acre hectare pc "
    "kpc Mpc parsec ly AU au Angstrom angstrom amu dyn dyne lightyear euro eur yen pound penny "
    "pence nickel dime buck rupee peso yuan kWh kilowatt megawatt statvolt bit byte pm fm cc fl "
    "psi"
)
# things that are counted
_COUNTED = listed(
    "page apple orange banana pear peach lemon melon berry grape cherry fruit vegetable carrot "
    "potato egg cookie cake cupcake pie pizza slice piece sandwich candy candie chocolate sweet "
    "lollipop donut muffin loaf bread bottle can jar box carton bag basket bucket crate package "
    "pack packet container cup glass plate bowl spoon fork knife student child children kid boy "
    "girl man men woman women person people adult teacher player member worker employee friend "
    "guest visitor customer passenger voter citizen family team group club class classroom "
    "school cat dog bird fish horse cow pig sheep goat chicken hen duck rabbit mouse mice lion "
    "tiger bear elephant monkey frog turtle bee ant spider animal pet fly flie tree flower plant "
    "leaf leave rose tulip seed bush book notebook magazine newspaper letter word sentence "
    "paragraph chapter card sticker stamp coin bill ticket token chip marble ball balloon toy "
    "doll block brick tile cubes die dice bead stone rock shell stick straw match pen pencil "
    "crayon marker eraser paper sheet poster photo picture painting car truck bus buse bike "
    "bicycle train plane boat ship wheel tire seat house home room window door chair table desk "
    "bed floor building store shop street shirt dress shoe sock hat cap glove coat pant button "
    "ribbon way arrangement permutation combination choice option outcome possibility case event "
    "pairing order selection subset set element number integer value solution roots answer term "
    "digit zeros primes divisor factor multiples pair triple triplet tuple quadruple function "
    "polynomial coefficient equation point line segment side edge vertex vertice vertices corner "
    "face diagonal triangle squares rectangle circle polygon quadrilateral hexagon pentagon "
    "region intersection path route step move turn game race round goal run win loss vote "
    "problem question test quiz quizze exam lesson trip visit lap row column stack pile layer "
    "level stage cycle rotation revolution hour day week month year minute second night morning "
    "weekend shift computer phone machine robot television tv video song movie film show message "
    "email call gift present prize award medal job task item object thing part sample atom "
    "electron proton neutron photon molecule particle star planet galaxy galaxie"
)
_ADJECTIVES = listed(
    "square sq cubic cu different distinct possible ordered positive integer real whole equal "
    "blue red green white black yellow pink brown purple new old us american light nautical "
    "metric standard per"
)
# words that do not say what is measured
SAME = listed("unit square sq cubic cu total altogether exactly each approximately")
_SCALES = {
    "dozen": 12,
    "hundred": 100,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
_SPEEDS = {"mph": "mi/h", "kmh": "km/h", "kph": "km/h", "kmph": "km/h"}
_SHORT = 3  # names of up to this many letters are case-sensitive
_GROUP = (
    r"\\(?:text|textbf|textit|textrm|textnormal|mathrm|mbox|hbox|operatorname)\s*\{(?:[^{}]"
    r"|\{[^{}]*\})*\}"
    r"|\\Omega(?![A-Za-z])"
)
_POWER = r"(?:\s*\^\s*(?:\{\s*-?\d+\s*\}|-?\d))?"
_SEPARATOR = (
    r"(?:/|\\cdot(?![A-Za-z])|\\times(?![A-Za-z])|\\mu(?![A-Za-z])|\\Omega(?![A-Za-z])|\^\\circ)?"
)
_IN_GROUPS = re.compile(rf"(?<=\S)\s*{_SEPARATOR}\s*((?:(?:{_GROUP}){_POWER}\s*{_SEPARATOR}\s*)+)$")
_BARE = re.compile(
    rf"(?<=[\d}})% ])\s*((?<![A-Za-z\\])[A-Za-z]+{_POWER}(?:(?:\s*[/.]\s*"
    rf"|\s+)[A-Za-z]+{_POWER})*\.?)$"
)
_POWERS = re.compile(r"\^\s*(?:\{\s*-?\d+\s*\}|-?\d|\\circ)")
_NO_UNIT = re.compile(r"[^A-Za-z¢\s/~.(){}\\]")
_TOKEN = re.compile(
    r"(/|per\b)?\s*(square|sq|cubic|cu)?\.?\s*([A-Za-z¢]+)\s*(?:\^\s*\{?\s*(-?\d+)\s*\}?)?"
)


class Unit(NamedTuple):
    """What is measured, as powers of base quantities, and the factor to the base units."""

    dimensions: tuple[tuple[str, int], ...]
    factor: Fraction


def split_unit(text: str, *, bare: bool, known: bool = True) -> tuple[str, str]:
    r"""Split cleaned text into what is measured and the unit after it, which may be empty.

    Args:
        text: cleaned text.
        bare: whether ``5 cm`` counts without ``\text{}``.
        known: whether the unit's words must be listed; a gold's need not be.

    Text that consists only of words has no unit.
    """
    if text.endswith("^\\circ"):
        return text.removesuffix("^\\circ").strip(), "degree"
    grouped = _IN_GROUPS.search(text)
    match = grouped or (_BARE.search(text) if bare else None)
    if match is None:
        return text, ""
    words = _words(match[1])
    if _NO_UNIT.search(_POWERS.sub("", match[1])):
        return text, ""
    if not words or {*words} & {"i", "e", "d"} or (known and not _is_unit(words)):
        return text, ""
    if not known and not grouped and not _are_units(words, text[match.start()].isspace()):
        return text, ""
    return text[: match.start()].strip(), match[1].strip()


def _words(unit: str) -> list[str]:
    return re.findall(
        r"[A-Za-z¢]+",
        re.sub(r"\\(?:cdot|times)|\\[A-Za-z]+\s*(?=\{)", " ", unit.replace("\\Omega", "ohm")),
    )


def _are_units(words: list[str], apart: bool) -> bool:
    """Whether the letters after a gold's number are units rather than symbols.

    They are if they are words of at least four letters, or listed ones that are separated from the
    number. In 5r^5, 5ab and 6ms they are symbols. A single letter is a unit only beside a longer
    one, as in km/h.
    """
    longest = max(map(len, words))
    return all(len(word) > 3 or _is_unit_word(word) for word in words) and (
        longest > 3 or (longest > 1 and apart)
    )


def _is_unit(words: list[str]) -> bool:
    """Whether the words are listed, with at most one counted thing and a last word that is a noun.

    ``5\\text{ square}`` is not a unit, because it may mean 25.
    """
    counted = [word for word in words if _singular(word) in _COUNTED - _UNITS.keys()]
    one = len(counted) < 2 or "per" in words
    return one and all(map(_is_unit_word, words)) and words[-1].lower() not in _ADJECTIVES


def _is_unit_word(word: str) -> bool:
    singular = _singular(word)
    listed = singular in _UNITS or singular in _OTHERS or singular in _COUNTED
    return listed or word.lower() in _ADJECTIVES or singular in SAME or word.lower() in _SCALES


def _singular(word: str) -> str:
    """The name as it is listed: without a plural's s, and in lower case if it is long."""
    name = word if len(word) <= _SHORT else word.lower()
    for form in (
        name,
        name.removesuffix("s"),
        *((name.lower(), name.lower().removesuffix("s")) if len(name) > 1 else ()),
    ):
        if form in _UNITS or form in _OTHERS or form in _COUNTED or form in SAME:
            return form
    return word if len(word) == 1 else word.lower()


def scale(unit: str) -> int:
    """The factor for a number: 10^6 for ``million dollars``."""
    factor = 1
    for word in _words(unit):
        factor *= _SCALES.get(word.lower(), 1)
    return factor


@lru_cache(maxsize=1024)
def parse_unit(words: str) -> Unit | None:
    """The unit that these words name, or None if the table lacks one of them."""
    text = re.sub(r"\\(?:cdot|times)|\\[A-Za-z]+\s*\{|[{}](?![\d-])", " ", words).strip()
    text = _SPEEDS.get(text.lower(), text)
    powers: dict[str, int] = {}
    factor = Fraction(1)
    position = 0
    for match in _TOKEN.finditer(text):
        name = _singular(match[3])
        if name not in _UNITS or text[position : match.start()].strip(" }"):
            return None
        power = (
            int(match[4] or 1)
            * {"s": 2, "c": 3}.get((match[2] or " ")[0], 1)
            * (-1 if match[1] else 1)
        )
        dimension, size = _UNITS[name]
        powers[dimension] = powers.get(dimension, 0) + power
        factor *= size**power
        position = match.end()
    if not powers or text[position:].strip(" }"):
        return None
    return Unit(tuple(sorted((name, power) for name, power in powers.items() if power)), factor)


def conversion(gold: str, answer: str) -> Fraction | None:
    """The factor that converts an answer's number to gold's unit, or None for different things.

    It is 1 if either has no unit, or only says "units".
    """
    expected, given = parse_unit(gold), parse_unit(answer)
    if expected is not None and given is not None:
        return given.factor / expected.factor if expected.dimensions == given.dimensions else None
    things = [_things(gold), _things(answer)]
    return Fraction(1) if not all(things) or things[0] & things[1] else None


def _things(unit: str) -> set[str]:
    """What is measured or counted, without adjectives."""
    names = {_singular(word) for word in _words(unit)}
    return names - SAME - _ADJECTIVES - _SCALES.keys()
