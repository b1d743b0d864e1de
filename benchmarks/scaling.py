"""Which Qwen3 fits which TPU slice, at the paper's settings: python -m benchmarks.scaling [v5e-256 8B lora ...]

Every function of ``configs/rcsd.py`` is compiled with the TPU compiler, which needs no TPU: ``pip install "jax[tpu]"``.
A row takes minutes; rows that are known are kept, so the command can be ended and given again. Words choose rows;
without any, all that are missing are made. ``docs/scaling.md`` is written after every row.
"""

from __future__ import annotations

import functools
import itertools
import json
import sys
from typing import Any

import jax

from benchmarks import machine
from benchmarks.side import ROOT
from configs import rcsd
from rcsd_jax import ahead, config, dry_run, sharding

SLICES = {
    "v5e-64": "v5e:8x8",
    "v5e-256": "v5e:16x16",
    "v5p-128": "v5p:4x4x4",
    "v6e-256": "v6e:16x16",
    "TPU7x-64": "TPU7x:4x4x4",
}
SIZES = ("8B", "1.7B", "32B")
LEARN = ("lora", "params")
ROWS = ROOT / "docs" / "results" / "scaling.jsonl"
PAGE = ROOT / "docs" / "scaling.md"


def experiment(size: str, learn: str) -> config.Experiment:
    """The paper's settings; weights that learn are float32."""
    raw = rcsd.get_config()
    raw.model.source, raw.model.trainable = f"Qwen/Qwen3-{size}", learn
    raw.model.compute.param_dtype = "float32" if learn == "params" else "bfloat16"
    raw.data.path = raw.rubrics.path = dry_run.UNREAD
    return config.read(raw)


def row(slice_name: str, size: str, learn: str) -> dict[str, Any]:
    """What the compiler says of one model on one slice."""
    commit = machine.commit()  # as it is now: other commits may come while this compiles
    devices, tell = dry_run.devices_of(SLICES[slice_name]), functools.partial(print, flush=True)
    s, chip = dry_run.prepared(experiment(size, learn), devices, tell), ahead.chip_of(devices[0])
    found = dry_run.dry_run(s, tell)
    assert chip is not None
    train = next(x for x in found if x.name == "train_step")
    return {
        "slice": slice_name,
        "size": size,
        "learn": learn,
        "mesh": list(s.mesh.devices.shape),
        "micro_batches": s.experiment.train.micro_batches,
        "room": chip.memory,
        "held": sum(ahead.parts_of(ahead.abstract_state(s)).values()),
        "ideal_sent": ideal_sent(s),
        "sent": sum(x.times * x.sent for x in train.cost.collectives),
        "functions": [
            {
                "name": x.name,
                "memory": x.needs or x.memory,
                "fits": ahead.fits(x, chip),
                "temporary": x.temporary,
                "flops": x.cost.flops,
                "bytes": x.cost.bytes,
                "sent": {kind: sent for kind, (_, sent) in ahead.by_kind(x.cost.collectives).items()},
                "seconds": x.seconds(chip),
                "during": x.during,
                "times": x.times,
                "total": x.total_seconds(chip),
                "compile_seconds": x.compile_seconds,
            }
            for x in found
        ],
        "cures": [cure for x in found if not ahead.fits(x, chip) for cure in _cures(s, x, chip)],
        "commit": commit,
        "sent_counted_by": commit,
        "jax": jax.__version__,
    }


def _cures(s: ahead.Subject, x: ahead.Finding, chip: ahead.Chip) -> list[str]:
    return ahead.cures(s, x, chip, ahead.parts_of(ahead.abstract_state(s)))


def ideal_sent(s: ahead.Subject) -> float:
    """Bytes that a device must send in a train step, by the arithmetic of FSDP and tensor parallelism.

    Each weight of a layer is gathered over fsdp in the forward and in the backward pass; gradients of what learns are
    scattered, and summed over data. Over tensor, what a layer adds to the stream is summed twice forward, twice when it
    is computed again, and the gradients twice. The head stays where it is: states of student and teacher are gathered
    over fsdp for it, gradients of the student's are summed over fsdp and tensor.
    """
    e, a, mesh = s.experiment, s.transformer.architecture, s.mesh.shape
    tensor, fsdp, data = mesh["tensor"], mesh["fsdp"], mesh["data"]
    layers = a.layers * a.width * (a.head_width * 2 * (a.heads + a.kv_heads) + 3 * a.mlp_width)
    table = a.vocab_size * a.width
    share = (fsdp - 1) / fsdp
    rows, parts = e.train.questions * e.train.samples, sharding.row_parts(s.mesh)
    tokens = rows * e.sampling.max_new_tokens + e.train.questions * e.prompts.student_lengths[-1]
    scored = rows * e.sampling.max_new_tokens
    stored = 4 if e.model.compute.param_dtype == "float32" else 2
    weights = e.train.micro_batches * share * (2 * 2 * layers + stored * table) / tensor
    gradients = 0.0
    if e.model.trainable == "params":
        # Those of the layers are sums of bfloat16 products, those of the table are added up in float32.
        gradients = e.train.micro_batches * (2 * layers + 4 * table) / tensor * (share + 2 * (data - 1) / data / fsdp)
    stream = 6 * a.layers * 2 * tokens / parts * a.width * 2 * (tensor - 1) / tensor
    of_head = 2 * scored / data * a.width * (2 * share + 2 * (fsdp * tensor - 1) / (fsdp * tensor))
    return weights + gradients + stream + of_head


def page(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    known = {(x["slice"], x["size"], x["learn"]): x for x in rows}
    missing = [" ".join(key) for key in keys() if key not in known]
    lines = [
        "# Which model fits which slice",
        "",
        "`python -m benchmarks.scaling` compiles every function of `configs/rcsd.py` with the TPU compiler, without a"
        " TPU: 32 questions, one answer of 4,096 tokens each, prompts of 1,024, teacher prompts of 2,048. GiB are of"
        " one device: the room of a program, the weights with moments and teacher, and all that lies there in each"
        " function. Seconds are a floor (`python -m rcsd_jax.dry_run` tells what they are made of). v5p-128 counts"
        " cores, that is 64 devices; a chip of TPU7x is two devices. Learn: adapters (LoRA, rank 64) over bfloat16"
        " weights, or all weights, in float32 with a frozen teacher. Sent / ideal: what a device sends in the train"
        " step, against the arithmetic of FSDP and tensor parallelism (`ideal_sent`).",
        "",
        "| slice | model | learn | mesh, micro-batches | fits | GiB of room | weights, moments | sample | score | train"
        " | step, s | bound | sent / ideal | compile, s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_line(known[key]) for key in keys() if key in known]
    if missing:
        lines += ["", f"Not compiled yet: {'; '.join(missing)}."]
    why = [
        f"- {x['slice']} {x['size']} {x['learn']}: " + ", or ".join(dict.fromkeys(x["cures"]))
        for x in map(known.get, keys())
        if x and x["cures"]
    ]
    if why:
        lines += ["", "What does not fit, and what would help:", "", *why]
    made = sorted({(x["commit"], x["jax"]) for x in rows})
    lines += ["", *(f"Made by commit {commit}, jax {version}." for commit, version in made)]
    recounted = [x for x in rows if x.get("sent_counted_by", x["commit"]) != x["commit"]]
    if recounted:
        told = [f"{x['slice']} {x['size']} {x['learn']} by {x['sent_counted_by']}" for x in recounted]
        lines += [
            "",
            f"What a train step sends was counted again for {'; '.join(told)}: remove a row, and it is made anew.",
        ]
    learning = [x for x in rows if x["learn"] == "params" and x["sent"]]
    older = [f"{x['slice']} {x['size']} params" for x in learning if "sent_counted_by" not in x]
    if older:
        told = "Sums that a TPU fuses with their scatter are still counted as whole sums, so less is sent, in"
        lines += ["", f"{told} {'; '.join(older)}."]
    return "\n".join([*lines, ""])


def _line(x: dict[str, Any]) -> str:
    by_name = {f["name"]: f for f in x["functions"]}
    fits = all(f["fits"] for f in x["functions"])
    gib = [f"{by_name[name]['memory'] / ahead.GIB:.1f}" for name in ("sample", "score", "train_step")]
    of_step = [f for f in x["functions"] if f.get("during", "step") == "step"]  # older rows say 0 times of the others
    seconds, bounds = sum(f["times"] * f["total"] for f in of_step), {}
    for f in of_step:
        for name, each in f["seconds"].items():
            bounds[name] = bounds.get(name, 0.0) + f["times"] * each
    ratio = f"{x['sent'] / x['ideal_sent']:.2f}" if x["sent"] else ""
    told = (f"{seconds:.1f}", max(bounds, key=bounds.__getitem__), ratio) if fits else ("", "", ratio)
    mesh = f"{' x '.join(map(str, x['mesh']))}, {x['micro_batches']}"
    start = [x["slice"], x["size"], x["learn"], mesh, "yes" if fits else "no", f"{x['room'] / ahead.GIB:.2f}"]
    compiling = f"{sum(f['compile_seconds'] for f in x['functions']):.0f}"
    held = f"{x['held'] / ahead.GIB:.2f}"
    return f"| {' | '.join([*start, held, *gib, *told, compiling])} |"


def keys() -> list[tuple[str, str, str]]:
    """All rows, in the order of the table."""
    return list(itertools.product(SLICES, SIZES, LEARN))


def main() -> None:
    """Makes the rows that are asked for and missing."""
    jax.config.update("jax_platforms", "cpu")
    for key in keys():
        is_known = key in {(x["slice"], x["size"], x["learn"]) for x in _rows()}
        if not is_known and set(sys.argv[1:]) <= set(key):
            made = row(*key)
            with ROWS.open("a") as file:  # another process may make another row
                file.write(json.dumps(made) + "\n")
            PAGE.write_text(page(_rows()))


def _rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


if __name__ == "__main__":
    main()
