"""What was found out, as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from rcsd_jax.ahead.chips import GIB, Chip
from rcsd_jax.ahead.drawing import cache_bytes, drawings
from rcsd_jax.ahead.findings import Finding, cures, parts_of
from rcsd_jax.ahead.program import by_kind
from rcsd_jax.ahead.subject import Subject, abstract_state


def heading(s: Subject, chip: Chip | None) -> str:
    """What is compiled for what, and what lies on each device all the time, or while tokens are drawn."""
    e, shape = s.experiment, s.mesh.shape
    parts = parts_of(abstract_state(s)) | {f"cache of {name}": cache_bytes(s, name) for name in drawings(s)}
    learns = f" ({e.model.trainable} learn)" if s.run == "train" else ""
    room = f", {chip.memory / GIB:.2f} GiB each" if chip else ""
    return "\n".join(
        [
            f"{e.name}, {s.run}: {e.model.source}{learns}, {s.mesh.size} x {_kind(s)}{room}, mesh "
            + " ".join(f"{axis} {size}" for axis, size in shape.items()),
            "a device holds, GiB: " + ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items()),
        ]
    )


def line(s: Subject, finding: Finding, chip: Chip | None) -> str:
    """One function: memory, work, network, time; and if it does not fit, what would help."""
    start = f"{finding.name:<17} compiled in {finding.compile_seconds:.0f} s"
    if finding.needs:
        says = f"{start}; does not fit: the program alone needs {finding.needs / GIB:.2f} GiB"
        return f"{says}; try {', or '.join(_cures(s, finding, chip))}" if chip else says
    cost = finding.cost
    rows = [
        f"{start}; {finding.memory / GIB:.2f} GiB in all, of which temporary {finding.temporary / GIB:.2f}",
        f"  {cost.flops / 1e12:.3g} TFLOP, {cost.bytes / 1e9:.3g} GB read and written",
    ]
    if cost.unread:
        rows.append(f"  without the operations inside of kernels: {', '.join(sorted(cost.unread))}")
    kinds = by_kind(cost.collectives)
    sends = [f"{kind} {times:.0f} times {sent / 1e9:.3g} GB" for kind, (times, sent) in sorted(kinds.items())]
    rows.append("  sends " + (", ".join(sends) or "nothing"))
    if chip:
        by_bound = finding.seconds(chip)
        shares = ", ".join(f"{name} {seconds:.3g}" for name, seconds in by_bound.items())
        largest = max(by_bound, key=lambda name: by_bound[name])
        rows.append(f"  at least {finding.total_seconds(chip):.3g} s ({shares}): bound by {largest}")
        if finding.memory > chip.memory:
            rows.append(f"  does not fit; try {', or '.join(_cures(s, finding, chip))}")
    return "\n".join(rows)


def ending(s: Subject, findings: Sequence[Finding], chip: Chip | None) -> str:
    """All functions together: whether they fit, and what a step takes, and an evaluation on the way."""
    if not findings:
        return "nothing is evaluated: name config.evaluation.splits, and samples or a greedy answer"
    if chip is None:
        return "no numbers are known for this kind of device, so there is no prediction of memory or time"
    tight = [x.name for x in findings if not fits(x, chip)]
    if tight:
        return f"does not fit: {', '.join(tight)}"
    batch, every = s.experiment.evaluation.batch, s.experiment.evaluation.every
    often = "" if s.run != "train" else f", every {every} steps and at the end" if every else ", at the end"
    told = {
        "step": "a step takes",
        "evaluation": f"an evaluation takes for each {batch} questions{often},",
        "rubrics": f"{batch} rubrics take",
    }
    found = {during: [x for x in findings if x.during == during] for during in told}
    taken = [f"{told[during]} at least {_seconds(of_it, chip)}" for during, of_it in found.items() if of_it]
    return "; ".join(["everything fits", *taken])


def _seconds(findings: Sequence[Finding], chip: Chip) -> str:
    seconds = {x.name: x.times * x.total_seconds(chip) for x in findings}
    return f"{sum(seconds.values()):.3g} s ({', '.join(f'{name} {each:.3g}' for name, each in seconds.items())})"


def fits(finding: Finding, chip: Chip) -> bool:
    """Whether all that lies on a device while the function runs has room there."""
    return not finding.needs and finding.memory <= chip.memory


def _cures(s: Subject, finding: Finding, chip: Chip) -> list[str]:
    return cures(s, finding, chip, parts_of(abstract_state(s)))


def _kind(s: Subject) -> str:
    return s.mesh.devices.flat[0].device_kind
