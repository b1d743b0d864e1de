"""What all commands share: the flags --config and --workdir, the compilation cache, and errors in one line."""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags, logging
from etils import epath
from ml_collections import config_dict, config_flags

from rcsd_jax import config, ending, hosts, memory

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/; change keys with --config.a.b=value")
_WORKDIR = flags.DEFINE_string("workdir", None, "the folder of the run; the same command in the same folder continues")


_FAULTS: list[str] = []  # overrides of the command line that cannot be taken, found while flags are parsed


def run(main: Callable[[config.Experiment, str], Any]) -> None:
    """Runs ``main(experiment, workdir)`` of a config that describes one run."""
    run_with_config(lambda raw, workdir: main(config.read(raw), workdir), config.read)


def run_with_config(
    main: Callable[[config_dict.ConfigDict, str], Any], check: Callable[[config_dict.ConfigDict], Any]
) -> None:
    """Runs ``main(config, workdir)``; leftover arguments and missing flags are refused.

    ``check`` raises a ConfigError for a config that ``main`` would refuse: so the faults of the command line and those
    of the config are told together.
    """

    def checked() -> None:
        raw = _required(_CONFIG, "configs/quickstart.py")
        if _FAULTS:
            raise config.ConfigError(_FAULTS + _errors_of(check, raw))
        main(raw, required_workdir())

    _list_in_help(_CONFIG)
    start(checked)


def _errors_of(check: Callable[[config_dict.ConfigDict], Any], raw: config_dict.ConfigDict) -> list[str]:
    try:
        check(raw)
    except config.ConfigError as error:
        return error.errors
    return []


def required_workdir() -> str:
    """The value of --workdir; the compilations of this process are cached beside it."""
    workdir = str(epath.Path(_required(_WORKDIR, "runs/x")))  # runs/x/ is runs/x
    cache_compilations(workdir)
    return workdir


def start(main: Callable[[], Any]) -> None:
    """Parses the flags and calls ``main``; a ValueError becomes its message (a traceback with --verbosity=1)."""

    def guarded(arguments: list[str]) -> None:
        if len(arguments) > 1:
            sys.exit(f"arguments {arguments[1:]} belong to no flag: write --config.key=value, with two dashes")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # orbax tells the story of every save
        try:
            memory.keep_freed()
            hosts.join()
            ending.listen()
            main()
        except ending.Ended as ended:
            if hosts.is_first():
                print(ended, file=sys.stderr, flush=True)
            sys.exit(ended.code)
        except BaseException as error:
            if ending.lost_host(error):
                with contextlib.suppress(OSError):  # the log may lie on the disk that is full
                    traceback.print_exc()
                    sys.stdout.flush()
                os._exit(ending.ABORTED)  # threads of jax and orbax would wait for the lost one
            hosts.leave(error)
            if not isinstance(error, (ValueError, OSError)) or logging.get_verbosity() > logging.INFO:
                raise
            sys.exit(f"error: {error}")

    _list_in_help(_WORKDIR)
    app.run(guarded, flags_parser=_parse)


def cache_compilations(workdir: str) -> None:
    """Keeps compiled functions in ``.cache/jax`` beside the workdir, so that the next run starts warm."""
    if "://" in str(workdir) or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    folder = os.path.join(os.path.dirname(os.path.abspath(workdir)), ".cache", "jax")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _list_in_help(flag: flags.FlagHolder) -> None:
    """--help lists the flags of the module that is run, and these are defined here."""
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[flag.name])


def _parse(arguments: list[str]) -> list[str]:
    cleared = [x for x in arguments if x.startswith("--config.") and x.endswith("=None")]  # absl has no None
    try:
        faulty = _faulty_overrides(arguments)
        _FAULTS[:] = faulty.values()
        sys.argv = [x for x in sys.argv if x not in faulty]  # config_flags looks for overrides there
        left = app.parse_flags_with_usage([x for x in arguments if x not in cleared and x not in faulty])
    except OSError as error:
        sys.exit(f"error: {error}")
    for override in cleared:
        if override in faulty:
            continue
        *sections, key = override.removeprefix("--config.").removesuffix("=None").split(".")
        section = functools.reduce(getattr, sections, _CONFIG.value)
        with section.ignore_type():  # whether it may be None is for the door to say
            section[key] = None
    return left


def _faulty_overrides(arguments: list[str]) -> dict[str, str]:
    """Overrides of keys that the config does not have, with the nearest right name, and those of another type."""
    files = [x.removeprefix("--config=") for x in arguments if x.startswith("--config=")]
    if not files:
        return {}
    values, faulty = flags.FLAGS["config"].parser.parse(files[-1]), {}
    for override in arguments:
        if override.startswith("--config.") and (fault := _fault(values, override.removeprefix("--config."))):
            faulty[override] = fault
    return faulty


def _fault(section: Any, override: str) -> str | None:
    """What is wrong with one override, "a.b=value"."""
    keys, _, text = override.partition("=")
    path, kind = "config", None
    for key in keys.split("."):
        name = key.split("[")[0]
        if not isinstance(section, config_dict.ConfigDict) or name not in section:
            known = sorted(section) if isinstance(section, config_dict.ConfigDict) else []
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"{path} has {', '.join(known) or 'no keys'}"
            return f"{path}.{name} is unknown: {hint}"
        kind, path = section.get_type(name), f"{path}.{name}"
        section = section[name]
    if kind in (int, float) and text not in ("", "None"):
        try:
            kind(text)
        except ValueError:
            return f"{path} is {text!r}: give {kind.__name__}"
    return None


def _required(flag: flags.FlagHolder, example: str) -> Any:
    if flag.value is None:
        sys.exit(f"error: --{flag.name} is missing: give, for example, --{flag.name}={example}")
    return flag.value
