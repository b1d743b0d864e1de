"""What a compiled program does on one device: operations, bytes of memory, and what it sends to the others.

XLA's own ``cost_analysis`` counts the body of a loop once. Here the text of the optimised program is read, and what is
inside a loop counts as often as the loop turns.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

WIDTH = {"pred": 1, "s4": 0.5, "u4": 0.5, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
WIDTH |= {"s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8}
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# These move nothing, or what they move is counted elsewhere.
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
FREE |= {"iota", "while", "call", "conditional", "opt-barrier", "async-start", "async-update"}
INNER = re.compile(r"(?:calls|to_apply|called_computations|branch_computations)=(?:\{([^}]*)\}|(%?[\w.\-]+))")
# A kernel's matrix products, by what it is called; the work of one is in its scope, as ``lm.kernels`` writes it. The
# compiler's text of a call goes on in the next lines where it tells the blocks.
KERNELS = {"fmhaSoftmaxBackward": 5, "fmhaSoftmax": 2, "_dkv_": 4, "_dq_": 3, "_fwd_": 2}
KERNEL_CALL = re.compile(r'custom_call_target="(tpu_custom_call|__cudnn\$fmha\w+)"')
CONTINUED = re.compile(r"\{\n(\"[^\n]*)\n\}\}")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program: ``%name = type opcode(operands), attributes``."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @property
    def dims(self) -> tuple[int, ...]:
        """The shape, of the first array where there are several."""
        return _dims(ARRAY.search(self.type))

    @property
    def bytes(self) -> float:
        """In main memory: what lies in a chip's scratch memory, S(1), costs nothing here."""
        return sum(
            size
            for size, found in zip(self.arrays, ARRAY.finditer(self.type), strict=True)
            if not re.search(r"S\([1-9]", found[3] or "")
        )

    @property
    def arrays(self) -> list[float]:
        """Bytes of each array of the result, wherever it lies."""
        return [WIDTH.get(found[1], 0) * math.prod(_dims(found)) for found in ARRAY.finditer(self.type)]

    @property
    def inner(self) -> list[str]:
        """The computations that it calls; those of a loop are not among them."""
        called = [listed or one for listed, one in INNER.findall(self.attributes)]
        return [name.lstrip("%") for names in called for name in names.split(", ")]

    @property
    def elements(self) -> int:
        """Of the largest array of the result."""
        return max((math.prod(_dims(found)) for found in ARRAY.finditer(self.type)), default=0)


@dataclasses.dataclass(frozen=True)
class Collective:
    """Something that devices do together, ``times`` in a run of the program.

    ``bytes`` is the whole: what is gathered, reduced or exchanged, as it would lie on one of the ``devices`` devices.
    """

    kind: str
    bytes: float
    devices: int
    times: float
    of: str = ""

    @property
    def sent(self) -> float:
        """Bytes that a device sends each time, by the usual ring."""
        if self.kind == "collective-permute":
            return self.bytes
        return self.bytes * (self.devices - 1) / self.devices * (2 if self.kind == "all-reduce" else 1)


@dataclasses.dataclass
class Cost:
    """Of one device and one run. ``roof`` is (operations, bytes) by instruction, to be held against a chip.

    ``unread`` are the kernels whose operations are not known, and count as none.
    """

    roof: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    collectives: list[Collective] = dataclasses.field(default_factory=list)
    unread: set[str] = dataclasses.field(default_factory=set)

    @property
    def flops(self) -> float:
        """Of matrix products."""
        return sum(flops for flops, _ in self.roof)

    @property
    def bytes(self) -> float:
        """Read and written."""
        return sum(moved for _, moved in self.roof)


class Program:
    """The text of a compiled program, read."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry, current = "", {}
        for line in CONTINUED.sub(r"{\1}}", text).splitlines():
            if line[:1] not in (" ", "}", "") and line.rstrip().endswith("{"):
                name = line.removeprefix("ENTRY ").split(" ")[0].lstrip("%")
                current = self.computations[name] = {}
                self.entry = name if line.startswith("ENTRY") else self.entry
            elif (instruction := _instruction(line)) is not None:
                current[instruction.name] = instruction

    def cost(self, turns: Sequence[float] = ()) -> Cost:
        """What a run costs; ``turns`` are those of the loops whose end depends on data, in the order of the program."""
        cost, found = Cost(), {}
        self._add(self.entry, 1.0, iter(turns), cost, found)
        cost.collectives = list(found.values())
        return cost

    def largest(self) -> int:
        """Elements of the largest array that any instruction makes anew on a device; a view of an old one is none."""
        views = {*FREE, "copy", "copy-start", "copy-done", "dynamic-update-slice"}
        return max(
            instruction.elements
            for lines in self.computations.values()
            for instruction in lines.values()
            if instruction.opcode not in views and not self._updates(instruction)
        )

    def _add(self, name: str, times: float, turns: Iterator[float], cost: Cost, found: dict) -> None:
        lines = self.computations[name]
        for x in lines.values():
            if x.opcode == "while":
                parts = dict(re.findall(r"(body|condition)=%?([\w.\-]+)", x.attributes))
                number = self._turns(x, parts["condition"])
                self._add(parts["body"], times * (next(turns, 1.0) if number is None else number), turns, cost, found)
            elif x.opcode in ("call", "conditional", "async-start", "call-start"):
                for called in x.inner:
                    self._add(called, times, turns, cost, found)
            elif _kind(x) in COLLECTIVES:
                self._communicate(x, lines, times, found)
            elif x.opcode not in FREE and not x.opcode.endswith("-done"):
                flops = self._flops(x, lines)
                for called in self._below(x.inner) if x.opcode == "fusion" else ():
                    for y in self.computations[called].values():
                        flops += self._flops(y, self.computations[called])
                        if _kind(y) in COLLECTIVES:
                            self._communicate(y, self.computations[called], times, found, fusion=called)
                kernel = KERNEL_CALL.search(x.attributes)
                if kernel:
                    flops = _kernel_flops(x, kernel[1])
                    cost.unread |= set() if flops else {x.name}
                cost.roof.append((times * flops, times * self._moved(x, lines)))

    def _below(self, names: Sequence[str]) -> Iterator[str]:
        for name in names:
            yield name
            for x in self.computations[name].values():
                if x.opcode == "fusion":
                    yield from self._below(x.inner)

    def _turns(self, loop: Instruction, condition: str) -> float | None:
        """How often a loop turns that counts from 0 to a constant; None if its end depends on more."""
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', loop.attributes)
        if known:
            return float(known[1])
        lines = self.computations[condition]
        root = next(x for x in lines.values() if x.is_root)
        limits = [x.operands[0] for x in lines.values() if x.opcode == "constant" and x.type.startswith("s32[]")]
        simple = root.opcode in ("compare", "fusion") and all(
            x.opcode in ("parameter", "constant", "get-tuple-element", "compare", "fusion", "bitcast", "copy")
            for x in lines.values()
        )
        return float(limits[0]) if simple and len(limits) == 1 else None

    def _communicate(
        self, x: Instruction, lines: dict[str, Instruction], times: float, found: dict, fusion: str = ""
    ) -> None:
        # "all-reduce-scatter" is a TPU's name for a sum of which every device keeps its part.
        kind = "reduce-scatter" if fusion.startswith("all-reduce-scatter") else _kind(x)
        channel = re.search(r"channel_id=(\d+)", x.attributes)
        operation = re.search(r'op_name="([^"]*)"', x.attributes)
        # What is fused with computation appears in several pieces, each with the whole result: one channel, one send.
        # By itself an instruction is known by its name: all those of a shard_map may have the same channel.
        key = (channel[1] if channel and fusion else x.name, times)
        whole = [lines[name] for name in x.operands if name in lines] if kind == "reduce-scatter" else [x]
        sizes = [size for y in whole for size in y.arrays]
        size = max(sizes, default=0) if x.opcode.endswith("-start") else sum(sizes)
        if key not in found or found[key].bytes < size:
            found[key] = Collective(kind, size, _group(x.attributes), times, operation[1] if operation else "")

    def _flops(self, x: Instruction, lines: dict[str, Instruction]) -> float:
        if x.opcode == "dot":
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", x.attributes)
            left = lines[x.operands[0]].dims
            inner = math.prod(left[int(axis)] for axis in contracted[1].split(",") if axis) if contracted else 1
            return 2.0 * math.prod(x.dims) * inner
        if x.opcode == "convolution":
            return _convolution_flops(x, lines[x.operands[0]].dims, lines[x.operands[1]].dims)
        return 0.0

    def _moved(self, x: Instruction, lines: dict[str, Instruction]) -> float:
        """Bytes that an instruction reads and writes; of a slice, those of the slice."""
        if x.opcode in ("dynamic-slice", "gather", "slice"):
            return 2 * x.bytes
        if x.opcode == "copy-start":
            return x.bytes  # its type names source and destination
        if x.opcode == "slice-start":  # (operand, slice, ...): into scratch memory, or it would have no need to start
            return x.arrays[1]
        if x.opcode in ("dynamic-update-slice", "scatter"):
            return 2 * lines[x.operands[1]].bytes if x.operands[1] in lines else x.bytes
        operands = [lines[name] for name in x.operands if name in lines]
        if x.opcode != "fusion":
            return x.bytes + sum(operand.bytes for operand in operands)
        read = sum(min(operand.bytes, self._read(x.inner[0], i, operand.bytes)) for i, operand in enumerate(operands))
        updates = self._updates(x)
        return read + (2 * sum(updates) if updates else x.bytes)

    def _read(self, fused: str, number: int, whole: float) -> float:
        """Bytes of an operand that a fusion reads: of one that is only sliced, or only written into, not the whole."""
        inside = self.computations[fused]
        names = [y.name for y in inside.values() if y.opcode == "parameter" and y.operands[0] == str(number)]
        read = 0.0
        for name in names:  # grows by the names of its views
            for user in inside.values():
                if name not in user.operands:
                    continue
                if user.opcode == "bitcast":
                    names.append(user.name)
                elif user.opcode == "fusion":
                    read += self._read(user.inner[0], user.operands.index(name), whole)
                elif user.opcode in ("dynamic-slice", "slice", "gather"):
                    read += user.bytes
                elif user.opcode != "dynamic-update-slice" or user.operands[0] != name:
                    return whole
        return read

    def _updates(self, x: Instruction) -> list[float]:
        """Bytes that a fusion writes into an operand in its place, where that is all it does."""
        if x.opcode != "fusion":
            return []
        inside = self.computations[x.inner[0]]
        root = next(y for y in inside.values() if y.is_root)
        roots = [inside[y] for y in root.operands if y in inside] if root.opcode == "tuple" else [root]
        roots = [inside[y.operands[0]] if y.opcode in ("bitcast", "copy") and y.operands else y for y in roots]
        if [y.opcode for y in roots] == ["fusion"]:
            return self._updates(roots[0])
        return (
            [inside[y.operands[1]].bytes for y in roots]
            if all(y.opcode == "dynamic-update-slice" for y in roots)
            else []
        )


def by_kind(collectives: Sequence[Collective]) -> dict[str, tuple[float, float]]:
    """Kind to (how often, bytes that a device sends)."""
    sums: dict[str, tuple[float, float]] = collections.defaultdict(lambda: (0.0, 0.0))
    for x in collectives:
        times, sent = sums[x.kind]
        sums[x.kind] = times + x.times, sent + x.times * x.sent
    return dict(sums)


def _instruction(line: str) -> Instruction | None:
    found = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not found:
        return None
    rest = line[found.end() :]
    split = _closing(rest) + 1 if rest.startswith("(") else rest.find(" ")
    kind, rest = rest[:split], rest[split:].lstrip()
    opcode, _, rest = rest.partition("(")
    end = _closing("(" + rest) - 1
    names = re.findall(r"%([\w.\-]+)", rest[:end]) or [rest[:end]]
    return Instruction(found[2], kind, opcode, tuple(names), rest[end + 1 :], found[1] is not None)


def _closing(text: str) -> int:
    """Where the parenthesis that ``text`` begins with is closed."""
    depth = 0
    for at in (match.start() for match in re.finditer(r"[()]", text)):
        depth += 1 if text[at] == "(" else -1
        if depth == 0:
            return at
    return len(text)


def _dims(array: re.Match | None) -> tuple[int, ...]:
    return tuple(int(size) for size in array[2].split(",") if size) if array else ()


def _kind(x: Instruction) -> str:
    return x.opcode.removesuffix("-start")


def _group(attributes: str) -> int:
    """Devices that take part in one collective."""
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", mesh[2]))
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes)
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    return int(iota[1]) if iota else len(listed[1].split(",")) if listed else 2


def _kernel_flops(x: Instruction, target: str) -> float:
    """Of all products of a kernel; 0 if it does not say."""
    of_one = re.search(r"product_of_(\d+)", x.attributes)
    products = next((number for name, number in KERNELS.items() if name in x.name + target), 0)
    return float(of_one[1]) * products if of_one else 0.0


def _convolution_flops(x: Instruction, left: tuple[int, ...], right: tuple[int, ...]) -> float:
    """As XLA counts them: multiplications with padding are none."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", x.attributes)
    assert labels, f"{x=}"
    sizes = [dict(zip(labels[i], dims, strict=True)) for i, dims in ((1, left), (2, right), (3, x.dims))]
    window = re.search(r"window=\{([^}]*)\}", x.attributes)
    fields = dict(part.split("=") for part in window[1].split(" ")) if window else {}
    pairs = 1
    for axis in (label for label in labels[3] if label.isdigit()):
        size, number = sizes[1][axis], int(axis)
        stride, spread, step = (
            int(fields[key].split("x")[number]) if key in fields else 1
            for key in ("stride", "lhs_dilate", "rhs_dilate")
        )
        pad = int(fields["pad"].split("x")[number].split("_")[0]) if "pad" in fields else 0
        place = np.arange(sizes[2][axis])[:, None] * stride + np.arange(size)[None, :] * step - pad
        pairs *= np.sum((place >= 0) & (place <= (sizes[0][axis] - 1) * spread) & (place % spread == 0))
    groups = re.search(r"batch_group_count=(\d+)", x.attributes)
    batch = sizes[0]["b"] // (int(groups[1]) if groups else 1)
    return 2.0 * batch * sizes[2]["f"] * sizes[1]["i"] * float(pairs)
