"""A comparison as Markdown, and as a plain table for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from rcsd_jax.evaluation import EvaluationRecord, Interval
from rcsd_jax.report.findings import findings, show, show_p, signed, warnings
from rcsd_jax.report.records import Column, Comparison, MethodResult, Row, is_share

WIDTH = 100  # of the terminal table
_SAMPLES = 3
_MAX_CHARACTERS = 1500  # of a trajectory in the report
_MAX_CRITERIA = 20  # titles; more would be a table nobody reads

_METHOD = """\
Intervals are 95% percentile bootstraps over questions (10,000 resamples); where every answer is right, or every one
wrong, the exact binomial bound. Differences are paired: the same questions for both methods. P-values come from
flipping the signs of the differences (two-sided), and "corrected" is Holm's correction for the number of methods
compared with the baseline. `comparison.json` holds all numbers, also those that are not shown here."""
_SEEDS = """\
Every method ran once with each of the seeds {}. Numbers are means over the seeds; for an interval seeds and questions
are resampled, for a p-value the differences of a question are averaged over the seeds first: it is about these runs."""


def terminal_table(comparison: Comparison) -> str:
    """At most 100 columns wide; ± is half the interval, * says that the interval of a difference excludes zero."""
    main = comparison.columns[0]
    header = ["method", *(column.title for column in comparison.columns), f"vs {comparison.baseline}"]
    body = [[row.name, *_halves(row, comparison), _half_difference(row, main)] for row in comparison.methods]
    tops = [[row.name, *_halves(row, comparison), ""] for row in comparison.ceilings]
    widths = [max(len(line[at]) for line in (header, *body, *tops)) for at in range(len(header))]
    # What is too wide is taken from the first and the last column, which hold names.
    for at, least in ((len(widths) - 1, 12), (0, 12)):
        spare = sum(widths) + 2 * (len(widths) - 1) - WIDTH
        widths[at] = max(min(least, widths[at]), widths[at] - max(spare, 0))
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [_aligned(header, widths), rule, *(_aligned(line, widths) for line in body)]
    if tops:
        lines += [rule, "ceilings (guidance in the prompt)", *(_aligned(line, widths) for line in tops)]
    return "\n".join(
        (
            *lines,
            rule,
            "± half a 95% interval, over seeds too if several;  * the interval of the difference excludes 0",
        )
    )


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    cut = [cell if len(cell) <= width else cell[: width - 1] + "…" for cell, width in zip(cells, widths, strict=True)]
    return "  ".join(
        [cut[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cut[1:], widths[1:], strict=True))]
    ).rstrip()


def _halves(row: Row, comparison: Comparison) -> list[str]:
    return [_half(row.cell(column), column) for column in comparison.columns]


def _half(cell: Interval | None, column: Column) -> str:
    if cell is None:
        return "-"
    scale = 100 if column.is_rate else 1
    return f"{scale * cell.mean:.1f} ±{scale * (cell.high - cell.low) / 2:.1f}"


def _half_difference(row: Row, column: Column) -> str:
    difference = row.differences.get(column.key)
    if difference is None:
        return ""
    scale = 100 if column.is_rate else 1
    half = scale * (difference.high - difference.low) / 2
    return f"{scale * difference.difference:+.1f} ±{half:.1f}{'*' if difference.excludes_zero else ' '}"


def markdown(
    comparison: Comparison, methods: Sequence[MethodResult], *, title: str, pictures: Mapping[str, str]
) -> str:
    """The whole report.

    Args:
      comparison: the numbers.
      methods: what they were made of; some of its completions are shown.
      title: of the page.
      pictures: caption -> file name, relative to the report.
    """
    parts = [
        f"# {title}",
        _section("What was seen", _bullets(findings(comparison))),
        _section("Results", _results(comparison)),
        *(f"![{caption}]({name})" for caption, name in pictures.items()),
        _section("What should make you careful", _bullets(warnings(comparison))),
        _section("Every method against every other", _pairs(comparison)),
        _section("Rubrics", _rubrics(comparison)),
        _section("Seed by seed", _seeds(comparison)),
        _section("What it cost", _budgets(comparison)),
        *_groups(comparison),
        _section("The same questions, all methods", _trajectories(comparison, methods)),
        _section("How the numbers were made", _how(comparison) + "\n" + _manifest(comparison)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _cell(cell: Interval | None, rate: bool) -> str:
    if cell is None:
        return "-"
    scale = 100 if rate else 1
    return f"{scale * cell.mean:.1f} [{scale * cell.low:.1f}, {scale * cell.high:.1f}]"


def _results(comparison: Comparison) -> str:
    main = comparison.columns[0]
    header = ["", *(c.title + (" (%)" if c.is_rate else "") for c in comparison.columns)]
    rows = []
    for row in (*comparison.methods, *comparison.ceilings):
        difference = row.differences.get(main.key)
        against = ["-", "-"]
        if difference:
            low, high = signed(difference.low, main), signed(difference.high, main)
            against = [f"{signed(difference.difference, main)} [{low}, {high}]", show_p(difference.p_holm).strip("= ")]
        name = f"**{row.name}**" if row in comparison.methods else f"*ceiling: {row.name}*"
        rows.append([name, *(_cell(row.cell(c), c.is_rate) for c in comparison.columns), *against])
    header += [f"{main.title}, minus {comparison.baseline}", "p, corrected"]
    described = _bullets(f"`{row.name}`: {row.description}" for row in (*comparison.methods, *comparison.ceilings))
    return f"{_table(header, rows)}\n\n{_sizes(comparison)}\n\n{described}"


def _sizes(comparison: Comparison) -> str:
    base = next(row for row in comparison.methods if row.name == comparison.baseline)
    sizes = (
        f"{name}: {base.metrics[name]['accuracy'].n} questions, {base.samples[name]} samples" for name in base.metrics
    )
    return "; ".join(sizes) + (f"; each with {len(base.seeds)} seeds." if len(base.seeds) > 1 else ".")


def _pairs(comparison: Comparison) -> str:
    names = list(dict.fromkeys(pair.method for pair in comparison.pairs))
    if len(names) < 3:
        return ""
    main = comparison.columns[0]
    cells = {(pair.method, pair.other): pair.test for pair in comparison.pairs}
    rows = []
    for method in names:
        row = [f"**{method}**"]
        for other in names:
            test = cells.get((method, other))
            text = signed(test.difference, main) if test else ""
            row.append(f"**{text}**" if test and (test.low > 0 or test.high < 0) else text)
        rows.append(row)
    note = f"Row minus column in {main.title}, points; bold where the 95% interval excludes zero (uncorrected)."
    return f"{note}\n\n{_table(['', *names], rows)}"


def _rubrics(comparison: Comparison) -> str:
    names = list(dict.fromkeys(name for row in comparison.rubrics for name in row.quality))
    rows = [
        [f"**{row.name}**", row.description, *(_rubric_cell(name, row.quality.get(name)) for name in names)]
        for row in comparison.rubrics
    ]
    header = [name.replace("_", " ") + (" (%)" if is_share(name) else "") for name in names]
    return _table(["", "", *header], rows) if rows else ""


def _rubric_cell(name: str, cell: Interval | None) -> str:
    if cell is not None and name.endswith("_nats"):  # often small
        return f"{cell.mean:.3f} [{cell.low:.3f}, {cell.high:.3f}]"
    return _cell(cell, is_share(name))


def _seeds(comparison: Comparison) -> str:
    """The main column of every run, and what the runs of a method differ by."""
    main = comparison.columns[0]
    base = next(row for row in comparison.methods if row.name == comparison.baseline)
    if len(base.seeds) < 2:
        return ""
    rows = []
    for row in (*comparison.methods, *comparison.ceilings):
        if main.key in row.by_seed:
            means = row.by_seed[main.key]
            gains = [mean - there for mean, there in zip(means, base.by_seed[main.key], strict=True)]
            spread = [show(float(np.std(values, ddof=1)), main) for values in (means, gains)]
            gain = signed(float(np.mean(gains)), main)
            rows.append([f"**{row.name}**", *(show(mean, main) for mean in means), spread[0], gain, spread[1]])
    header = [main.title, *(f"seed {seed}" for seed in base.seeds), "standard deviation"]
    return _table([*header, f"minus {base.name}", "its standard deviation"], rows)


def _budgets(comparison: Comparison) -> str:
    rows = [
        [
            f"**{row.name}**",
            f"{row.budget.steps:,}",
            f"{row.budget.sampled_tokens:,}",
            f"{row.budget.teacher_tokens:,}",
            f"{row.budget.seconds:,.0f}",
            f"{row.budget.peak_memory / 2**30:,.2f}" if row.budget.peak_memory else "-",
        ]
        for row in comparison.methods
    ]
    header = ["", "steps", "tokens sampled", "teacher tokens", "seconds of training", "peak memory (GiB)"]
    return _table(header, rows)


def _groups(comparison: Comparison) -> list[str]:
    """Metrics, templates and criteria of the evaluations that drew several samples, and of the main one."""
    main = comparison.columns[0].records
    base = next(row for row in comparison.methods if row.name == comparison.baseline)
    sections = [_section(f"All metrics: {main}", _all_metrics(comparison, main))]
    for name in (name for name, samples in base.samples.items() if samples > 1 or name == main):
        table = _group(comparison, [row.by_source.get(name, {}) for row in comparison.methods])
        sections.append(_section(f"Accuracy by source: {name} (%)", table))
        criteria = [row.by_criterion.get(name, {}) for row in comparison.methods]
        if len({title for found in criteria for title in found}) <= _MAX_CRITERIA:
            sections.append(_section(f"Criteria met: {name} (%)", _group(comparison, criteria)))
    return sections


def _all_metrics(comparison: Comparison, name: str) -> str:
    shown = [row for row in comparison.methods if name in row.metrics]
    metrics = dict.fromkeys(metric for row in shown for metric in row.metrics[name])
    rows = []
    for column in (Column(metric.replace("_", " "), name, metric) for metric in metrics):
        cells = [row.cell(column) for row in shown]
        rows.append([column.title, *(show(cell.mean, column) if cell else "-" for cell in cells)])
    return _table(["", *(row.name for row in shown)], rows)


def _group(comparison: Comparison, found: Sequence[Mapping[str, Interval]]) -> str:
    """One line a group, one column a method; nothing where there is one group only."""
    shown = [(row.name, of) for row, of in zip(comparison.methods, found, strict=True) if of]
    groups = sorted({group for _, of in shown for group in of})
    rows = [[group, *(f"{100 * of[group].mean:.0f}" if group in of else "-" for _, of in shown)] for group in groups]
    return _table(["", *(name for name, _ in shown)], rows) if len(groups) > 1 else ""


def _trajectories(comparison: Comparison, methods: Sequence[MethodResult]) -> str:
    """The first sample of each method for a few questions drawn by the seed, not chosen by their outcome."""
    name = comparison.columns[0].records
    firsts = {method.name: method for method in reversed(methods)}  # the first seed of each
    asked = {row.name: {r.id: r for r in firsts[row.name].records.get(name, ())} for row in comparison.methods}
    asked = {method: records for method, records in asked.items() if records}
    ids = sorted(asked[comparison.baseline])
    drawn = np.random.default_rng(comparison.seed).choice(len(ids), min(_SAMPLES, len(ids)), replace=False)
    blocks = []
    for number, at in enumerate(drawn, start=1):
        record = asked[comparison.baseline][ids[at]]
        blocks += [f"### Question {number}: {_code(record.id)}", _fenced(record.question)]
        blocks.append(f"Reference: {_code(record.reference)}")
        for method, records in asked.items():
            blocks.append(_trajectory(method, records[ids[at]]))
    return "\n\n".join(blocks)


def _trajectory(method: str, record: EvaluationRecord) -> str:
    says = "right" if record.correct[0] else "ungraded" if record.how[0] == "ungraded" else "wrong"
    if record.criteria:
        says += f", {sum(record.criteria[0])} of {len(record.criteria[0])} criteria"
    return (
        f"**{method}** ({says}; {sum(record.correct)} of {record.samples} samples right)\n\n{_fenced(record.texts[0])}"
    )


def _fenced(text: str) -> str:
    """A code block that no text can close: its fence is longer than any in it."""
    if len(text) > _MAX_CHARACTERS:
        text = f"{text[:_MAX_CHARACTERS]} ... ({len(text) - _MAX_CHARACTERS:,} more characters)"
    text = _visible(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=2))
    return f"{fence}text\n{text}\n{fence}"


def _code(text: str) -> str:
    return "`" + _visible(text.replace("`", "'").replace("\n", " ")) + "`"


def _visible(text: str) -> str:
    """Control characters, writing-direction marks and lone surrogates as their numbers."""
    return "".join(c if c == "\n" or c.isprintable() else f"\\u{ord(c):04x}" for c in text)


def _how(comparison: Comparison) -> str:
    seeds = comparison.methods[0].seeds
    return _METHOD + ("\n" + _SEEDS.format(", ".join(map(str, seeds))) if len(seeds) > 1 else "")


def _manifest(comparison: Comparison) -> str:
    lines = {"baseline": comparison.baseline, "seed of resampling": comparison.seed, **comparison.manifest}
    short = {name: _code(str(value)) for name, value in lines.items() if isinstance(value, str | int | float)}
    return "\n" + _bullets(f"{name}: {short.get(name, 'see `comparison.json`')}" for name in lines)
