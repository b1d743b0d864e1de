"""A comparison as files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence

from etils import epath

from rcsd_jax.report.figures import accuracy_chart, learning_curves
from rcsd_jax.report.pages import markdown
from rcsd_jax.report.records import Comparison, MethodResult
from rcsd_jax.report.spreadsheet import spreadsheet


def write(
    folder: str | os.PathLike[str],
    comparison: Comparison,
    methods: Sequence[MethodResult],
    *,
    title: str,
    curves: Mapping[str, str],
) -> None:
    """Writes comparison.json and .csv, report.md, accuracy.png and, where there is training to show, curves.png.

    Args:
      folder: made where it is missing.
      comparison: what ``compare`` returned for ``methods``.
      methods: give the curves and the completions that are shown.
      title: of the report.
      curves: which metrics to draw, metric name -> title of its panel; those that no method has are left out.
    """
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {"Accuracy with 95% intervals": ("accuracy.png", accuracy_chart(comparison))}
    drawn = learning_curves(methods, curves)
    if drawn is not None:
        pictures["Learning curves"] = ("curves.png", drawn)
    for name, content in pictures.values():
        (folder / name).write_bytes(content)
    (folder / "comparison.json").write_text(json.dumps(comparison.to_json(), indent=1) + "\n")
    (folder / "comparison.csv").write_text(spreadsheet(comparison))
    names = {caption: name for caption, (name, _) in pictures.items()}
    (folder / "report.md").write_text(markdown(comparison, methods, title=title, pictures=names), encoding="utf-8")
