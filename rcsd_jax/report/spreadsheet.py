"""The table of a comparison as CSV: one line a method, numbers as they are (rates between 0 and 1)."""

from __future__ import annotations

import csv
import dataclasses
import io

from rcsd_jax.report.records import Budget, Comparison, Row

_OF_DIFFERENCE = ("difference", "low", "high", "p", "p_holm")


def spreadsheet(comparison: Comparison) -> str:
    """CSV with a header; what a method does not have is an empty cell.

    accuracy, accuracy_low, accuracy_high, accuracy_vs_difference, accuracy_vs_low, ... for every column of the table,
    then what the method cost.
    """
    lines = [
        {"method": row.name, "kind": kind, "seeds": len(row.seeds)} | _numbers(row, comparison)
        for kind, rows in (("method", comparison.methods), ("ceiling", comparison.ceilings))
        for row in rows
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _numbers(row: Row, comparison: Comparison) -> dict[str, object]:
    found: dict[str, object] = {}
    for column in comparison.columns:
        cell, difference = row.cell(column), row.differences.get(column.key)
        found |= {
            column.title: cell.mean if cell else "",
            f"{column.title}_low": cell.low if cell else "",
            f"{column.title}_high": cell.high if cell else "",
        }
        found |= {
            f"{column.title}_vs_{name}": getattr(difference, name) if difference else "" for name in _OF_DIFFERENCE
        }
    return found | {field.name: getattr(row.budget, field.name) for field in dataclasses.fields(Budget)}
