"""Numbers with units, read by a small parser of our own. Nothing from a model is ever evaluated.

"1.2 × 10^3 m/s"   number 1200, unit m/s           "25%"     number 25, unit %
"-3/4"             number -0.75, no unit           "12 N or 13 N", "2 ± 1", "9**9**9"   no quantity
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re

from rcsd_jax.evaluation.plain import plain
from rcsd_jax.evaluation.units import Unit, read_unit

_DIGITS = (
    r"(?:[0-9]{1,3}(?:,[0-9]{3}){1,12}|[0-9]{1,3}(?: [0-9]{3}){1,12}(?![0-9])|[0-9]{1,40})(?:\.[0-9]{0,40})?"
    r"|\.[0-9]{1,40}"
)
_POWER_OF_TEN = r"10\s?(?:\^|\*\*)\s?\(?\s?[+-]?\s?[0-9]{1,3}\s?\)?"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s?(?:(?P<lone>{_POWER_OF_TEN})"
    rf"|\(?(?P<digits>{_DIGITS})\)?"
    rf"(?:[eE](?P<exponent>[+-]?[0-9]{{1,3}})(?![0-9])|\s?[×x*·]\s?(?P<scale>{_POWER_OF_TEN})"
    r"|\s?/\s?\(?(?P<below>[0-9]{1,40}(?:\.[0-9]{0,40})?)\)?)?)"
)
# Not the 2 of "s^2", "H2O", "v_2" or "m^(-2)": a number starts where a word could.
_NUMBER_START = re.compile(r"(?<![\w.^(/-])(?<!\^\()[+-]?\s?\(?(?:[0-9]|\.[0-9])")
_LEAD = re.compile(
    r"(?:approximately|approx\.?|about|around|roughly|nearly|exactly|equal to|equals|is|≈|~|:|\s)+", re.I
)
# What may follow a quantity is prose ("12 m/s to the east"), not arithmetic and not a second number.
_NOT_PROSE = re.compile(r"[0-9±^*/+×√π|&]|\bor\b")
_NOUN = re.compile(r"\W{0,3}([^\W\d_]{1,32})")
_NAME = re.compile(r"['′]?-?[^\W\d_]")  # "2-butanol" and "2D NMR" are names that begin with a digit
_PER = re.compile(r"\s?(?:/|per\b)")
_INEQUALITY = re.compile("[<>≤≥≠]")


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A number as written, its unit, and the noun that stands in a unit's place ("proton", "cell" of "cells/h")."""

    number: float
    unit: Unit | None
    noun: str = ""

    @property
    def value(self) -> float:
        """The number in SI base units (percent and degrees as plain ratios)."""
        return self.number * (self.unit.factor if self.unit else 1.0)

    @property
    def dimension(self) -> tuple[tuple[str, int], ...]:
        """The powers of the SI base units; ``()`` for a pure number."""
        return self.unit.dimension if self.unit else ()


def parse_quantity(text: str) -> Quantity | None:
    """Reads "v = 12 m/s", "about 3/4", "1.2e3 J" and their LaTeX forms; None for anything else."""
    text = plain(text)
    if _INEQUALITY.search(text):
        return None
    text = re.split("[=≈]", text)[-1]
    lead = _LEAD.match(text)
    text = text[lead.end() :] if lead else text
    match = _NUMBER.match(text)
    number = _value(match) if match else None
    if match is None or number is None:
        return None
    unit, rest = read_unit(text[match.end() :])
    if unit is None and _NAME.match(text, match.end()):
        return None
    noun = _NOUN.match(rest) if unit is None else None
    if noun:
        unit, rest = read_unit(rest[noun.end() :]) if _PER.match(rest, noun.end()) else (None, rest[noun.end() :])
    if _NOT_PROSE.search(rest) or (unit and rest[:1].isalpha()):
        return None
    return Quantity(number, unit, noun[1].lower().removesuffix("s") if noun else "")


def quantity_texts(text: str) -> list[str]:
    """The pieces of a plain line that start with a number, each up to the next: "12 m in 3 s" -> ["12 m in", "3 s"]."""
    starts: list[int] = []
    end = 0
    for found in _NUMBER_START.finditer(text):
        match = _NUMBER.match(text, found.start())
        if match and found.start() >= end:  # Else it is the "10" of "1.2 × 10^3", or the "000" of "12 000".
            starts.append(found.start())
            end = match.end()
    return [text[start:stop].strip() for start, stop in itertools.pairwise([*starts, len(text)])]


def sole_quantity(text: str) -> Quantity | None:
    """``parse_quantity``, or the only number of a sentence ("a speed of 12 m/s"); of two, either could be meant."""
    quantity, text = parse_quantity(text), plain(text)
    if quantity is not None or _INEQUALITY.search(text):
        return quantity
    pieces = quantity_texts(text)
    return parse_quantity(pieces[0]) if len(pieces) == 1 else None


def agree(answer: Quantity, reference: Quantity, *, tolerance: float) -> bool:
    """Whether the answer is within ``tolerance * |reference|`` after conversion of units.

    A reference without a unit is compared with the number as written, one that has a unit wants one of the same
    dimension; percent and plain ratios are of the same dimension, K and °C are not.
    """
    if answer.dimension == reference.dimension and _close(answer.value, reference.value, tolerance):
        return not (reference.noun and answer.noun and reference.noun != answer.noun)
    bare = reference.unit is None and not reference.noun
    return bare and _close(answer.number, reference.number, tolerance)


def _close(value: float, target: float, tolerance: float) -> bool:
    # 1e-9 of the target is float rounding in the conversion of units.
    return abs(value - target) <= (tolerance + 1e-9) * abs(target)


def _value(match: re.Match[str]) -> float | None:
    """The number that ``_NUMBER`` found, or None where it is beyond a float."""
    digits = re.sub("[, ]", "", match["digits"] or "1")
    exponent = int(match["exponent"] or 0)
    for power_of_ten in (match["lone"], match["scale"]):
        if power_of_ten:
            exponent = int(re.sub(r"[^0-9+-]", "", re.split(r"\^|\*\*", power_of_ten)[1]))
    value = float(f"{digits}e{exponent}")
    if match["below"]:
        below = float(match["below"])
        value = value / below if below else math.inf
    if not math.isfinite(value):
        return None
    return -value if match["sign"] == "-" else value
