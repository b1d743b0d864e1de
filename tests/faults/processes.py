"""Processes that a test starts, with a deadline, and ends by their ids whatever happens."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = 280  # of which a loaded machine needs many
PYTHON = (sys.executable, "-u")


@dataclasses.dataclass
class Started:
    """A process that is the head of its own group, and the file with what it says."""

    process: subprocess.Popen
    log: Path

    def wait(self):
        """Its exit code as a shell has it."""
        code = self.process.wait(SECONDS)
        return 128 - code if code < 0 else code

    def says(self):
        return self.log.read_text()


@contextlib.contextmanager
def started(commands, folder, *, devices=1, **environment):
    """One process for each command."""
    flags = f"--xla_backend_optimization_level=0 --xla_force_host_platform_device_count={devices}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RCSD_")}
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", ROOT / "tests" / "faults")))
    environment = {**inherited, "PYTHONPATH": paths, "XLA_FLAGS": flags, "RCSD_HEARTBEAT_SECONDS": "60", **environment}
    running = []
    try:
        for number, command in enumerate(commands):
            log = folder / f"{time.monotonic_ns()}_{number}.log"
            own = {**environment, "RCSD_PROCESS": str(number)}
            with open(log, "w") as out:
                process = subprocess.Popen(
                    command, cwd=ROOT, env=own, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
                )
            running.append(Started(process, log))
        yield running
    finally:
        for each in running:
            if each.process.poll() is None:
                os.killpg(each.process.pid, signal.SIGKILL)  # the group that it heads, so that its children end too
                each.process.wait()


def pod(processes, arguments, folder, *, port, devices=2):
    """The processes of one run, without the script, so that each can be signalled alone."""
    return started(
        [[*PYTHON, *map(str, arguments)]] * processes,
        folder,
        devices=devices,
        RCSD_COORDINATOR=f"127.0.0.1:{port}",
        RCSD_PROCESSES=str(processes),
    )


def wait_for(condition, running):
    """Returns once ``condition()``; fails when a process is gone before, or the deadline has passed."""
    end = time.monotonic() + SECONDS
    while not condition():
        for each in running:
            assert each.process.poll() is None, each.says()[-3000:]
        assert time.monotonic() < end, [each.says()[-2000:] for each in running]
        time.sleep(0.02)
