"""Several processes as one run: they join, compare what they hold, and tell each other when one cannot go on.

    hosts.join()                                   # before anything else of jax
    hosts.exchange(3)                              # [3, 3]: what every host said, in their order
    hosts.from_first(lambda: path.exists())        # asked on host 0 alone, answered on all
    hosts.agree({"config": {"seed": 0}})           # ValueError: host 1 (b) has config.seed 1, host 0 (a) has 0

A host is a process of ``jax.distributed``; a run of one process has itself for host 0, and nothing here waits. Words go
through the coordinator's key-value store and not through the devices: nothing is compiled for them, no step is waited
for, and every wait has an end, which names the host that was waited for.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import flags

PATIENCE = 600.0  # seconds that hosts wait for each other: one may have a slow disk, or graders that take their time
DAY = 86_400.0
_LONG = 6 * PATIENCE  # where some may have to ask others: judges that answer late and have to be asked again
# Where one of these is above 1, a launcher has started several processes that jax finds by itself.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# Else orbax's hosts meet in a collective of their devices, which waits for ever.
_ORBAX_BARRIER = "experimental_orbax_use_distributed_barrier"

T = TypeVar("T")
_rounds = itertools.count()


class HostError(ValueError):
    """What another host could not do, or that it does not answer: all hosts stop, and all say why."""


def join() -> None:
    """Makes this process one of several, if it was started as such; to be called before jax is used.

    ``RCSD_COORDINATOR`` (host:port of process 0), ``RCSD_PROCESSES`` and ``RCSD_PROCESS`` say so, see
    ``launch/local_pod.sh``; on Cloud TPUs, under srun and under mpirun jax knows it. A host that was not heard of for
    ``RCSD_HEARTBEAT_SECONDS`` (100) is dead, and ends the others.

    Raises:
      ValueError: one of the three is missing, or they contradict each other.
    """
    patience = int(os.environ.get("RCSD_HEARTBEAT_SECONDS", "100"))
    timeouts = {"heartbeat_timeout_seconds": patience, "shutdown_timeout_seconds": patience}
    coordinator = os.environ.get("RCSD_COORDINATOR")
    if coordinator:
        try:
            processes, process = int(os.environ["RCSD_PROCESSES"]), int(os.environ["RCSD_PROCESS"])
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"RCSD_COORDINATOR is {coordinator} and {error} is no number: set RCSD_PROCESSES to the number of "
                "processes, RCSD_PROCESS to that of this one, from 0"
            ) from error
        if not 0 <= process < processes:
            raise ValueError(f"RCSD_PROCESS is {process}: give 0 to {processes - 1}, for RCSD_PROCESSES is {processes}")
        jax.distributed.initialize(coordinator, processes, process, **timeouts)
    elif any(int(os.environ.get(name, "1")) > 1 for name in _COUNTS) or _on_tpu():
        jax.distributed.initialize(**timeouts)
    if _ORBAX_BARRIER in flags.FLAGS:
        flags.FLAGS[_ORBAX_BARRIER].value = True


def _on_tpu() -> bool:
    """Jax has looked for TPU chips on the PCI bus; /dev/vfio/0 would also be any card that is passed to a guest."""
    return "tpu" in (jax.config.jax_platforms or "")  # type: ignore[missing-attribute]


def is_first() -> bool:
    """Whether this is host 0, the one that writes files."""
    return jax.process_index() == 0


def exchange(value: Any, seconds: float = PATIENCE) -> list[Any]:
    """What every host gave, in their order; all must call it. Values go as JSON.

    Raises:
      HostError: a host left with an error, or gave nothing for so long; the same on every host.
    """
    if jax.process_count() == 1:
        return [value]
    return [said["value"] for said in _told({"value": value}, seconds)]


def from_first(function: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """``function()`` of host 0, on every host; the others do not call it. JSON values.

    Raises:
      HostError: it raised a ValueError or OSError on host 0, where that one is raised.
    """
    if jax.process_count() == 1:
        return function()
    if not is_first():
        return _told({"value": None}, seconds)[0]["value"]
    try:
        value = function()
    except (ValueError, OSError) as error:
        leave(error)
        raise
    return _told({"value": value}, seconds)[0]["value"]


def divided(function: Callable[[Sequence[T]], Sequence[Any]], items: Sequence[T]) -> list[Any]:
    """``function(items)``, which gives a JSON value for every item: each host asks for its share, all get the whole."""
    hosts = jax.process_count()
    found = exchange(list(function(items[jax.process_index() :: hosts])), _LONG)
    return [found[at % hosts][at // hosts] for at in range(len(items))]


def agree(facts: Mapping[str, Any]) -> None:
    """Refuses to go on unless all hosts hold the same facts.

    Raises:
      HostError: every difference from host 0, with the host's name; the same on every host.
    """
    if jax.process_count() == 1:
        return
    told = _told({"value": facts}, PATIENCE)
    lines = [
        f"{_name(k, told)} has {path} {other!r}, {_name(0, told)} has {first!r}"
        for k, said in enumerate(told)
        for path, first, other in differences(told[0]["value"], said["value"])
    ]
    if lines:
        listed = "\n".join(f"  - {line}" for line in lines[:20])
        more = f"\n  and {len(lines) - 20} more" if len(lines) > 20 else ""
        raise HostError(f"the hosts are not alike:\n{listed}{more}\nmake them so, then start all of them again")


def leave(error: BaseException) -> None:
    """Tells the others, where they next wait for this host, why it is gone."""
    if jax.distributed.is_initialized() and jax.process_count() > 1 and not isinstance(error, HostError):
        _say(next(_rounds), {"error": str(error) or type(error).__name__})


def posted(key: str) -> bool:
    """Whether the coordinator's store has a value of that name; any thread may ask."""
    try:
        ocp.multihost.get_jax_distributed_client().key_value_try_get(key)
    except jax.errors.JaxRuntimeError:
        return False
    return True


def verdict(name: str, agrees: bool, value: Callable[[], int], seconds: float = 10.0) -> int | None:
    """``value()`` of host 0 where all hosts agree in time, else None; for threads, which cannot ``exchange``.

    A name can be voted on once. Host 0, with whom the store goes, has left the others time to read when it returns.
    """
    client = ocp.multihost.get_jax_distributed_client()
    client.key_value_set(f"rcsd/{name}/{jax.process_index()}", json.dumps(agrees))
    if not is_first():
        told = _hear(f"rcsd/{name}/verdict", 0, 3 * seconds)
        return told if isinstance(told, int) else None
    told = value() if all(_hear(f"rcsd/{name}/{k}", k, seconds) is True for k in range(jax.process_count())) else None
    client.key_value_set(f"rcsd/{name}/verdict", json.dumps(told))
    time.sleep(2)
    return told


def differences(first: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, value in ``first``, value in ``other``) wherever two trees of dicts differ; what is absent is None."""
    if isinstance(first, Mapping) and isinstance(other, Mapping):
        for key in sorted(first.keys() | other.keys()):
            yield from differences(first.get(key), other.get(key), f"{path}.{key}" if path else key)
    elif first != other:
        yield path, first, other


def _told(said: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
    """Host 0 gathers and hands out: two messages a host, whatever their number."""
    number, client = next(_rounds), ocp.multihost.get_jax_distributed_client()
    _say(number, said)
    if is_first():
        end = time.monotonic() + seconds
        told = [_hear(f"rcsd/{number}/{k}", k, end - time.monotonic()) for k in range(jax.process_count())]
        client.key_value_set(f"rcsd/{number}/all", json.dumps(told))
        client.key_value_delete(f"rcsd/{number - 1}/")  # that all have spoken again says that all have heard
    else:
        told = _hear(f"rcsd/{number}/all", 0, seconds + 30)
        told = told if isinstance(told, list) else [told]
    for k, each in enumerate(told):
        if "error" in each:
            raise HostError(f"{_name(k, told)} {each['error']}")
    return told


def _say(number: int, said: dict[str, Any]) -> None:
    client = ocp.multihost.get_jax_distributed_client()
    text = json.dumps({"host": socket.gethostname(), **said})
    client.key_value_set(f"rcsd/{number}/{jax.process_index()}", text)
    if is_first() and "error" in said:
        client.key_value_set(f"rcsd/{number}/all", f"[{text}]")


def _hear(key: str, host: int, seconds: float) -> Any:
    client = ocp.multihost.get_jax_distributed_client()
    try:
        return json.loads(client.blocking_key_value_get(key, max(1, int(1000 * seconds))))
    except jax.errors.JaxRuntimeError:
        return {"host": "", "error": f"did not answer within {max(0, seconds):.0f} s"}


def _name(host: int, told: list[dict[str, Any]]) -> str:
    name = told[host]["host"] if host < len(told) else ""
    return f"host {host} ({name})" if name else f"host {host}"
