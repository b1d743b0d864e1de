"""What a comparison says, in sentences, whatever it is; and what should make its reader careful."""

from __future__ import annotations

from collections.abc import Sequence

from rcsd_jax.report.records import Column, Comparison, Difference, Row

CLEAR = 0.05  # p after correction
_FEW_QUESTIONS = 50
_MANY, _SOME = 0.05, 0.01  # shares of the completions


def findings(comparison: Comparison) -> list[str]:
    """One sentence a method, on the main column; then the ceilings and the rubrics."""
    main = comparison.columns[0]
    base = next(row for row in comparison.methods if row.name == comparison.baseline)
    sentences = [
        _method_sentence(row, base, comparison.columns) for row in comparison.methods if main.key in row.differences
    ]
    for ceiling in comparison.ceilings:
        top, bottom = ceiling.cell(main), base.cell(main)
        if top and bottom:
            sentences.append(
                f"Ceiling `{ceiling.name}` ({ceiling.description}) is at {show(top.mean, main)}, "
                f"{signed(top.mean - bottom.mean, main)} from `{base.name}`."
            )
    return sentences + _rubric_sentences(comparison)


def _method_sentence(row: Row, base: Row, columns: Sequence[Column]) -> str:
    main, *others = columns
    difference, here, there = row.differences[main.key], row.cell(main), base.cell(main)
    assert here is not None and there is not None, f"{row.name=} has a difference without a value"
    sentence = (
        f"`{row.name}` is {_verdict(difference)} `{base.name}` in {main.title}: {show(here.mean, main)} and "
        f"{show(there.mean, main)}, difference {signed(difference.difference, main)} "
        f"[{signed(difference.low, main)}, {signed(difference.high, main)}], "
        f"p {show_p(difference.p)} (corrected {show_p(difference.p_holm)})."
    )
    if row.gap_closed is not None and difference.low > 0:
        sentence += f" That is {row.gap_closed:.0%} of the way to the ceiling."
    found = [(column, row.differences[column.key]) for column in others if column.key in row.differences]
    also = (f"{c.title} {signed(d.difference, c)}{'*' if d.excludes_zero else ''}" for c, d in found)
    return sentence + (f" Also: {', '.join(also)} (* the interval excludes zero)." if found else "")


def _rubric_sentences(comparison: Comparison) -> list[str]:
    sentences = []
    for row in comparison.rubrics[1:]:
        for name, test in row.differences.items():
            sentences.append(
                f"Rubrics `{row.name}` against `{comparison.rubrics[0].name}`, {name.replace('_', ' ')}: "
                f"{100 * row.quality[name].mean:.1f}%, difference {100 * test.difference:+.1f} "
                f"[{100 * test.low:+.1f}, {100 * test.high:+.1f}], p {show_p(test.p)}."
            )
    return sentences


def _verdict(difference: Difference) -> str:
    side = "above" if difference.difference > 0 else "below"
    if difference.excludes_zero and difference.p_holm < CLEAR:
        return side
    if difference.excludes_zero:
        return f"perhaps {side} (its interval excludes zero, its corrected p-value does not support it)"
    return "not told apart from"


def warnings(comparison: Comparison) -> list[str]:
    """What should make a reader careful: small samples, cut or unreadable answers, other lengths, uneven budgets."""
    base = next(row for row in comparison.methods if row.name == comparison.baseline)
    few = {
        name: metrics["accuracy"].n for name, metrics in base.metrics.items() if metrics["accuracy"].n < _FEW_QUESTIONS
    }
    found = [f"{name} has {n} questions only: intervals are wide and approximate." for name, n in few.items()]
    for row in (*comparison.methods, *comparison.ceilings):
        found += _answer_warnings(row)
    for row in comparison.methods:
        found += _change_warnings(row, base)
    return found + _ceiling_warnings(comparison, base) + _budget_warnings(comparison)


def _answer_warnings(row: Row) -> list[str]:
    found = []
    for name, metrics in row.metrics.items():
        where, cut, ungraded = f"`{row.name}` in {name}", 1 - metrics["finished"].mean, metrics["ungraded"].mean
        if cut > _MANY:
            found.append(f"{where}: {cut:.0%} of completions ran out of room.")
        if ungraded > _MANY:
            found.append(f"{where}: {ungraded:.0%} of answers could not be read (counted as wrong).")
    return found


def _change_warnings(row: Row, base: Row) -> list[str]:
    """What training may have done besides teaching."""
    found = []
    for name, metrics in row.metrics.items():
        where, mentions = f"`{row.name}` in {name}", metrics["guidance_mentions"].mean
        if mentions > _SOME:
            found.append(f"{where}: {mentions:.1%} of completions speak of guidance that a student never saw.")
        if name in base.metrics:
            ratio = metrics["length"].mean / max(base.metrics[name]["length"].mean, 1.0)
            if not 0.5 <= ratio <= 2.0:
                found.append(f"{where}: completions are {ratio:.1f} times as long as those of `{base.name}`.")
    return found


def _ceiling_warnings(comparison: Comparison, base: Row) -> list[str]:
    main = comparison.columns[0]
    return [
        f"Ceiling `{row.name}` is not above `{base.name}` in {main.title}: its guidance does not help this model."
        for row in comparison.ceilings
        if (top := row.cell(main)) and (bottom := base.cell(main)) and top.mean <= bottom.mean
    ]


def _budget_warnings(comparison: Comparison) -> list[str]:
    distilled = [row for row in comparison.methods if row.budget.teacher_tokens and row.budget.sampled_tokens]
    sampled = [row.budget.sampled_tokens for row in distilled]
    if not sampled or max(sampled) <= 1.1 * min(sampled):
        return []
    most = max(distilled, key=lambda row: row.budget.sampled_tokens)
    least = min(distilled, key=lambda row: row.budget.sampled_tokens)
    return [
        f"Budgets differ: `{most.name}` sampled {most.budget.sampled_tokens:,} tokens, "
        f"`{least.name}` {least.budget.sampled_tokens:,}."
    ]


def show(value: float, column: Column) -> str:
    """Rates in percent, other numbers as they are; one decimal."""
    return f"{100 * value:.1f}%" if column.is_rate else f"{value:.1f}"


def signed(value: float, column: Column) -> str:
    """A difference, in points for rates."""
    return f"{round(100 * value if column.is_rate else value, 1) + 0.0:+.1f}"  # + 0.0: no "-0.0"


def show_p(p: float) -> str:
    """``< 0.001`` or ``= 0.042``."""
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
