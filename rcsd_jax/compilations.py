"""The ledger of compilations: which function was compiled, for which shapes, in how many seconds.

A function that is compiled with ``jit`` of this file has a name, and every shape that it is compiled for becomes a line
of the ledger. The ledger belongs to the process, as jax's own cache does.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rcsd_jax.types import Tree

_TRACE = "/jax/core/compile/jaxpr_trace_duration"
_STAGES = (_TRACE, "/jax/core/compile/jaxpr_to_mlir_module_duration", "/jax/core/compile/backend_compile_duration")


@dataclasses.dataclass
class Compilation:
    """One function, compiled for one set of shapes: {"name": "sample", "shapes": "[64,40]", "seconds": 3.1}.

    ``seconds`` are those of tracing, lowering and compiling; a program that came from the persistent cache has few.
    """

    name: str
    shapes: str
    seconds: float = 0.0


_ledger: list[Compilation] = []


def jit(name: str, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``jax.jit(function, **options)`` under a name, with its compilations in the ledger."""

    @functools.wraps(function)
    def traced(*arguments: Tree) -> Tree:
        _ledger.append(Compilation(name, shapes_of(arguments)))  # Python runs only while jax traces
        return function(*arguments)

    traced.__name__ = name
    _listen()
    return jax.jit(traced, **options)


def ledger() -> tuple[Compilation, ...]:
    """All compilations of this process so far, in their order."""
    return tuple(dataclasses.replace(line) for line in _ledger)


def shapes_of(tree: Tree) -> str:
    """The shapes of the token arrays (int32, two axes) in a tree, which is where batches differ: "[64,40] [64,48]"."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if getattr(leaf, "ndim", 0) == 2 and leaf.dtype == jnp.int32]
    return " ".join(dict.fromkeys(f"[{','.join(map(str, leaf.shape))}]" for leaf in leaves))


@functools.cache
def _listen() -> None:
    jax.monitoring.register_event_duration_secs_listener(_add_seconds)


def _add_seconds(event: str, duration_secs: float, **about: Any) -> None:
    if event not in _STAGES:
        return
    name = str(about.get("fun_name", "")).removeprefix("jit(").removesuffix(")")
    # Stages follow the trace; the last line of that name is the one that is being compiled.
    for line in reversed(_ledger):
        if line.name == name:
            line.seconds += duration_secs
            return
