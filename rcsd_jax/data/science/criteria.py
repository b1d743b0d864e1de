"""The rubric of a question, made from its worked steps, and a check of every criterion without a judge."""

from __future__ import annotations

import re
from collections.abc import Callable

from rcsd_jax.data.science.formula import Operation, Step
from rcsd_jax.data.science.template import Instance
from rcsd_jax.types import Criterion, Rubric

FLAWS = ("wrong_operation", "wrong_unit")

# Fits every question, in the titles that the world's rubrics have: what they say without a word about the question.
GENERIC = Rubric(
    (
        Criterion("Formula", "uses the formula of the question", 9),
        Criterion("First step", "finds the first step", 6),
        Criterion("Last step", "takes the last step last", 5),
        Criterion("Unit", "answers in the unit of the question", 4),
        Criterion("Pitfall", "wrongly uses another formula", -1),
    ),
    origin="generic",
)

Met = Callable[[list[str]], bool]


def rubric_of(instance: Instance, flaw: str = "") -> Rubric:
    """The ground-truth rubric, which holds the method and the unit but never the answer; or one with a flaw.

    A rubric with the flaw "wrong_operation" asks for the slip and calls the right formula a pitfall; with "wrong_unit"
    it asks for the wrong unit.
    """
    assert flaw in ("", *FLAWS), f"{flaw=}"
    return Rubric(
        tuple(criterion for criterion, _ in _checked(instance, flaw)), f"flawed: {flaw}" if flaw else "ground_truth"
    )


def check_text(instance: Instance, text: str) -> tuple[bool, ...]:
    """Whether a rationale meets each criterion of the ground-truth rubric (the pitfall, last: whether it is there)."""
    statements = [" ".join(part.split()).rstrip(".").removeprefix("use ") for part in re.split("[;\n]", text)]
    return tuple(met(statements) for _, met in _checked(instance))


def _checked(instance: Instance, flaw: str = "") -> list[tuple[Criterion, Met]]:
    """The criteria, each with what says whether a list of statements meets it."""
    formula, pitfall, unit = instance.template.formula, instance.template.slip, instance.template.unit
    if flaw == "wrong_operation":
        formula, pitfall = pitfall, formula
    if flaw == "wrong_unit":
        unit = instance.template.wrong_unit
    first, *_, last = instance.steps(formula)
    answer = rf"answer \d+ {re.escape(unit)}"
    return [
        (Criterion("Formula", f"uses {formula.text}", 9), lambda statements: formula.text in statements),
        (Criterion("First step", f"finds {_start(first)}", 6), _has_step(first, instance)),
        (Criterion("Last step", _last_step(last.operation, instance), 5), _has_step(last, instance)),
        (Criterion("Unit", f"answers in {unit}", 4), lambda statements: bool(re.fullmatch(answer, statements[-1]))),
        (Criterion("Pitfall", f"wrongly uses {pitfall.text}", -1), lambda statements: pitfall.text in statements),
    ]


def _start(step: Step) -> str:
    return f"{step.operation.label} = {step.left} {step.operation.symbol} {step.right}"


def _has_step(step: Step, instance: Instance) -> Met:
    """The step is there: its operation on the given numbers. Its result, and what earlier steps found, may be off."""
    operation = step.operation
    left, right = (
        str(number) if _is_given(operand, instance) else r"\d+"
        for operand, number in ((operation.left, step.left), (operation.right, step.right))
    )
    pattern = rf"{re.escape(operation.label)} = {left} {re.escape(operation.symbol)} {right} = \d+"
    return lambda statements: any(re.fullmatch(pattern, statement) for statement in statements)


def _last_step(operation: Operation, instance: Instance) -> str:
    """The last operation in words, without its numbers: "adds u last"."""
    left, symbol, right = operation.left, operation.symbol, operation.right
    # What the steps before have found is "it"; a sum or product may name either side.
    if _is_given(left, instance) and not _is_given(right, instance):
        return {
            "+": f"adds {left} last",
            "-": f"subtracts it from {left} last",
            "*": f"multiplies by {left} last",
            "/": f"divides {left} by it last",
        }[symbol]
    return {
        "+": f"adds {right} last",
        "-": f"subtracts {right} last",
        "*": f"multiplies by {right} last",
        "/": f"divides by {right} last",
    }[symbol]


def _is_given(operand: str | int, instance: Instance) -> bool:
    return isinstance(operand, int) or operand in instance.values
