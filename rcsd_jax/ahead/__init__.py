"""A run before it is run: its functions are compiled from abstract arrays, for the devices here or for a TPU elsewhere.

subject     the run and its state as abstract arrays; no weights, no data
drawing     who draws tokens in it, and the functions that do
functions   these and all others, with their abstract arguments
program     reads a compiled program: operations, bytes, collectives, with the turns of its loops
chips       what a device can do
findings    both together: memory, time, what bounds it, and what to change where it does not fit
report      the same as text
"""

from rcsd_jax.ahead.chips import CHIPS, GIB, Chip, chip_of
from rcsd_jax.ahead.drawing import Function, drawings, view
from rcsd_jax.ahead.findings import Finding, compiled, cures, device_bytes, parts_of
from rcsd_jax.ahead.functions import functions
from rcsd_jax.ahead.program import Collective, Cost, Program, by_kind
from rcsd_jax.ahead.report import ending, fits, heading, line
from rcsd_jax.ahead.subject import RUNS, Subject, abstract_state, subject

__all__ = [
    "CHIPS",
    "GIB",
    "RUNS",
    "Chip",
    "Collective",
    "Cost",
    "Finding",
    "Function",
    "Program",
    "Subject",
    "abstract_state",
    "by_kind",
    "chip_of",
    "compiled",
    "cures",
    "device_bytes",
    "drawings",
    "ending",
    "fits",
    "functions",
    "heading",
    "line",
    "parts_of",
    "subject",
    "view",
]
