"""The comparison report: finished methods in, comparison.json, report.md and its pictures out.

    results = [report.MethodResult("base", "the untrained model", {"eval_sampled": records, ...}), ...]
    comparison = report.compare(results, baseline="base", ceilings=[...], rubrics=[...])
    report.write(folder, comparison, results, title="...", curves={"loss": "Loss"})
    print(report.terminal_table(comparison))

It says what was seen whatever it is: differences with intervals and corrected p-values, the ceiling, and what should
make a reader careful. The dataclasses of ``records`` are the schema of comparison.json.
"""

from rcsd_jax.report.comparison import compare
from rcsd_jax.report.findings import findings, warnings
from rcsd_jax.report.pages import terminal_table
from rcsd_jax.report.records import (
    COLUMNS,
    Budget,
    Column,
    Comparison,
    Difference,
    MethodResult,
    Row,
    RubricResult,
)
from rcsd_jax.report.write import write

__all__ = [
    "COLUMNS",
    "Budget",
    "Column",
    "Comparison",
    "Difference",
    "MethodResult",
    "Row",
    "RubricResult",
    "compare",
    "findings",
    "terminal_table",
    "warnings",
    "write",
]
