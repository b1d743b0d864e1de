r"""Finds the final answer in a model's text and says whether it is right.

    r"... so v = \boxed{12\,\mathrm{m/s}}"     boxed        "12 m/s"
    "The answer is (B), because ..."           answer       "(B), because ..."
    "v = 36 / 3 = 12 m/s"                      last_number  "12 m/s"   (nothing announced an answer)

Model text is untrusted: nothing is evaluated, every pattern is bounded, and an answer that is too long or cannot
be read is "ungraded", which counts as wrong and is counted apart.
"""

from __future__ import annotations

import dataclasses
import re

from rcsd_jax.evaluation.plain import plain
from rcsd_jax.evaluation.quantities import Quantity, agree, parse_quantity, quantity_texts, sole_quantity
from rcsd_jax.types import Problem

MAX_ANSWER = 512  # characters
_TAIL = 20_000  # characters of a text that are looked at

_BRACES = re.compile(r"\\(?:boxed|fbox)\s?\{|\\.|[{}]", re.DOTALL)
# "The answer to this is ...", "correct option: ...", then a bare "answer 12 N" that opens a line or a clause.
_ANNOUNCED = re.compile(
    r"(?<!to )\b(?:answer|ans|(?:correct|right|best)\s(?:option|choice))\b"
    r"(?:[^.:=\n]{0,40}?(?:\bis\b|\bbe\b|:)|\s{0,3}=)[\s*_:]{0,8}",
    re.IGNORECASE,
)
_BARE = re.compile(r"(?:^|[\n.;,:>])[#*\s]{0,8}(?:the\s)?(?:final\s)?(?:answer|ans)\b[*\s]{1,8}", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.;!?](?=[\s*_)]|$)|\n")
_LETTER = re.compile(
    r"(?:(?i:option|choice|answer)\s)?(?:[(\[]\s?([A-Za-z])\s?[)\]]|([A-Z])(?=$|[).:,\]*]|\s(?:is|because)\b))"
)
_BRACKETED_LETTER = re.compile(r"(?<!\w)[(\[]\s?([A-Z])\s?[)\]]")
_LONE_LETTER = re.compile(r"[a-z]$")
_ANOTHER_LETTER = re.compile(r"[).\]]?\s?(?:,|/|&|\bor\b|\band\b)\s?(?:either\s)?[(\[]?[A-Z](?:$|[^\w])")
_ARTICLE = re.compile(r"^(?:the|an?)\s")


@dataclasses.dataclass(frozen=True)
class Extracted:
    """A final answer, and where it stood: "boxed", "answer" (announced), "last_number" or "last_line"."""

    text: str
    place: str


@dataclasses.dataclass(frozen=True)
class Grade:
    """Whether the answer is right, what was read, and how it was compared.

    ``how`` is "choice", "number", "text", or "ungraded" (no answer found, too long, or not readable as the kind of
    thing the reference is). ``place`` is where the answer stood, see ``Extracted``; "" where none was found.
    """

    correct: bool
    extracted: str | None
    how: str
    place: str = ""


def strip_thinking(text: str) -> str:
    """What follows the last ``</think>``; nothing where a ``<think>`` was never closed."""
    if "</think>" in text:
        return text.rsplit("</think>", 1)[1]
    return text.split("<think>", 1)[0]


def extract(text: str) -> Extracted | None:
    """The final answer: the last box, else the last announced answer, else the last number, else the last line."""
    text = strip_thinking(text)[-_TAIL:]
    return _stated(text) or _last_number(text) or _last_line(text)


def grade(problem: Problem, text: str, *, tolerance: float = 0.01) -> Grade:
    """Compares the final answer of ``text`` with ``problem.answer``.

    Args:
      problem: with ``choices``, its answer is a letter or the text of a choice; else a number with or without a
        unit, or words.
      text: a completion, thinking included.
      tolerance: of numbers, relative to the reference (SciBench uses 0.05).

    Raises:
      ValueError: the reference of a multiple-choice problem is none of its choices.
    """
    text = strip_thinking(text)[-_TAIL:]
    stated = _stated(text)
    if problem.choices:
        return _grade_choice(problem, stated or _last_line(text))
    reference = parse_quantity(problem.answer)
    if reference is not None:
        if stated is None or not any(map(str.isnumeric, stated.text)):
            stated = _last_number(text)
        return _grade_number(reference, stated, tolerance)
    return _grade_text(problem.answer, stated or _last_line(text))


def vote_key(extracted: str | None) -> str | None:
    """A form in which equal answers are equal strings ("12.0 m/s", "12 m/s"), for majority votes; None abstains."""
    if extracted is None or not normal(extracted):
        return None
    quantity = parse_quantity(extracted)
    if quantity is None:
        return normal(extracted)
    return f"{quantity.value:.5g} {quantity.dimension} {quantity.noun}"


def normal(text: str) -> str:
    """Lower case, one space between words and signs, no quotes, brackets, article or closing punctuation."""
    words = re.findall(r"\w+|[^\w\s]", plain(text).casefold())
    return _ARTICLE.sub("", " ".join(word for word in words if word not in {*".,;!?\"'()[]`$"}))


def _grade_choice(problem: Problem, found: Extracted | None) -> Grade:
    right = _choice_of(problem.answer, problem.choices)
    if right is None:
        raise ValueError(
            f"problem {problem.id!r}: answer {problem.answer[:80]!r} is none of its {len(problem.choices)} choices: "
            "give a letter or the text of a choice"
        )
    if found is None or len(found.text) > MAX_ANSWER:
        return _ungraded(found)
    chosen = _choice_of(found.text, problem.choices)
    if chosen is None:
        return _ungraded(found)
    return Grade(chosen == right, chr(ord("A") + chosen), "choice", found.place)


def _choice_of(text: str, choices: tuple[str, ...]) -> int | None:
    """Which choice a text names: by letter, by its whole text, or by containing one choice and no other."""
    text = plain(text)
    words = [normal(choice) for choice in choices]
    match = _LETTER.match(text) or _LONE_LETTER.match(text)
    if match and text not in choices:
        letter = next((group for group in match.groups() if group), match[0])
        index = ord(letter.upper()) - ord("A")
        if index >= len(choices) or _ANOTHER_LETTER.match(text, match.end()):
            return None
        return index
    said = normal(text)
    if said in words:
        return words.index(said)
    inside = [index for index, word in enumerate(words) if word and f" {word} " in f" {said} "]
    longest = [i for i in inside if not any(i != j and words[i] in words[j] for j in inside)]
    if len(longest) == 1:
        return longest[0]
    letters = {ord(letter) - ord("A") for letter in _BRACKETED_LETTER.findall(text)}
    return letters.pop() if len(letters) == 1 and max(letters) < len(choices) else None


def _grade_number(reference: Quantity, found: Extracted | None, tolerance: float) -> Grade:
    quantity = sole_quantity(found.text) if found and len(found.text) <= MAX_ANSWER else None
    if found is None or quantity is None:
        return _ungraded(found)
    correct = agree(quantity, reference, tolerance=tolerance)
    return Grade(correct, found.text, "number", found.place)


def _grade_text(answer: str, found: Extracted | None) -> Grade:
    if found is None or len(found.text) > MAX_ANSWER:
        return _ungraded(found)
    return Grade(normal(found.text) == normal(answer), found.text, "text", found.place)


def _ungraded(found: Extracted | None) -> Grade:
    return Grade(False, found.text[:MAX_ANSWER] if found else None, "ungraded", found.place if found else "")


def _stated(text: str) -> Extracted | None:
    box = _last_box(text)
    if box is not None:
        return Extracted(box.strip(), "boxed")
    starts = {match.end() for pattern in (_ANNOUNCED, _BARE) for match in pattern.finditer(text)}
    for start in sorted(starts, reverse=True):
        end = _SENTENCE_END.search(text, start)
        answer = text[start : end.start() if end else len(text)].strip(" *_`")
        if answer:
            return Extracted(answer, "answer")
    return None


def _last_box(text: str) -> str | None:
    r"""The content of the outermost ``\boxed{...}`` that closes last, in one pass over the text."""
    opened: list[int | None] = []  # Where the content of each open box starts; None for other braces.
    box = None
    for match in _BRACES.finditer(text):
        if match[0].startswith(("\\boxed", "\\fbox")):
            opened.append(match.end())
        elif match[0] == "{":
            opened.append(None)
        elif match[0] == "}" and opened:
            start = opened.pop()
            box = text[start : match.start()] if start is not None else box
    return box


def _last_number(text: str) -> Extracted | None:
    for line in reversed(text.splitlines()):
        pieces = quantity_texts(plain(line[-MAX_ANSWER:])) if any(map(str.isnumeric, line)) else []
        if pieces:
            return Extracted(pieces[-1], "last_number")
    return None


def _last_line(text: str) -> Extracted | None:
    lines = text.strip().splitlines()
    return Extracted(lines[-1].strip(), "last_line") if lines else None
