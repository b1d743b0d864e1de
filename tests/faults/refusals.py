"""What hosts that are not alike are told. Every host prints a line of JSON a case: {"packages": "the hosts are ..."}.

python refusals.py FOLDER      # FOLDER/shared is there for all, FOLDER/disk_0 for host 0 alone, ...
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import tiny_pod
from etils import epath

from rcsd_jax import checkpoint, config, ending, hosts, preflight, sharding
from rcsd_jax.lm import cpu
from rcsd_jax.workdir import Workdir

folder = Path(sys.argv[1])


@contextlib.contextmanager
def changed(thing, name, value):
    old = getattr(thing, name)
    setattr(thing, name, value)
    try:
        yield
    finally:
        setattr(thing, name, old)


def hold(run, **changes):
    e = config.read(tiny_pod.get_config())
    with Workdir(run, dataclasses.replace(e, **changes)).held():
        return "nothing"


def another_config(me):
    return hold(folder / "shared" / "run", seed=me)


def another_version(me):
    with changed(preflight, "packages", lambda: {"jax": f"0.{me}"}):
        return hold(folder / "shared" / "run")


def another_processor(me):
    with changed(cpu, "has_matrix_unit", lambda: me == 1):
        return hold(folder / "shared" / "run")


def other_data(me):
    return hold(folder / "shared" / "run", data=config.Data(path="questions.jsonl"))


def disks_of_their_own(me):
    with changed(preflight, "_SEEN_SECONDS", 0.5):
        return hold("run")


def one_fails(me):
    if me == 0:
        return hosts.from_first(lambda: "nothing")
    hosts.leave(OSError("the disk is gone"))
    return "it is me"


def first_fails(me):
    def fails():
        raise ValueError("no such split")

    return hosts.from_first(fails)


def one_is_silent(me):
    time.sleep(3 * me)
    return hosts.exchange(me, seconds=1 if me == 0 else 60)


def taken(me):
    """By another run, which host 0 alone notices."""
    where = epath.Path(folder / "shared" / "taken")
    with contextlib.ExitStack() as other:
        if me == 0:
            other.enter_context(preflight._locked(where))
        hosts.exchange("taken")
        try:
            hold(where)
        except preflight.Taken as error:
            return str(error)


def alike(me):
    asked = []
    found = hosts.divided(lambda items: asked.extend(items) or [[10 * k, float("inf")] for k in items], range(5))
    assert found == [[10 * k, float("inf")] for k in range(5)]
    assert asked == [[0, 2, 4], [1, 3]][me]
    return hold(folder / "shared" / "run")


def damaged(me):
    """A pod goes back to the checkpoint before a damaged one."""
    mesh = sharding.make_mesh()
    layout = sharding.batch_sharding(mesh)
    state = {"x": jax.jit(lambda: jnp.arange(4096.0), out_shardings=layout)()}
    where = folder / "shared" / "checkpoints"
    with checkpoint.Checkpoints(where) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, checkpoint.Meta())
    if me == 0:
        largest = max((p for p in (where / "2" / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        largest.write_bytes(largest.read_bytes()[:50])
    hosts.exchange("damaged")
    with checkpoint.Checkpoints(where) as checkpoints:
        restored = checkpoints.restore(state, checkpoint.Meta())
    same = bool(jax.jit(lambda x, y: (x == y).all())(restored.state["x"], state["x"]))
    return f"step {restored.step}, {same}, {sorted(path.name for path in where.iterdir())}"


def leave(me):
    """Asked to end while one host has something to save; then once more, in what no signal reaches."""
    stop = epath.Path(folder / "STOP")
    with ending.Pulse(stop) as pulse:
        if me == 0:
            pulse.owes()
        print("asks", flush=True)
        while not pulse():
            time.sleep(0.2)
    print("saves", flush=True)
    with ending.Pulse(stop):
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)


def main():
    hosts.join()
    ending.listen()
    me = jax.process_index()
    own = folder / f"disk_{me}"
    own.mkdir()
    (own / "questions.jsonl").write_text(f'{{"id": {me}}}\n')
    os.chdir(own)
    cases = another_config, another_version, another_processor, other_data, disks_of_their_own, first_fails, one_fails
    for case in (*cases, one_is_silent, taken, alike, damaged):
        try:
            told = case(me)
        except ValueError as error:
            told = str(error)
        print(json.dumps({case.__name__: told}), flush=True)
    leave(me)


if __name__ == "__main__":
    main()
