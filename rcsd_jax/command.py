"""What all commands share: the flags --config and --workdir, the compilation cache, and errors in one line."""

from __future__ import annotations

import difflib
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags, logging
from etils import epath
from ml_collections import config_dict, config_flags

from rcsd_jax import config

_CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/; change keys with --config.a.b=value")
_WORKDIR = flags.DEFINE_string("workdir", None, "the folder of the run; the same command in the same folder continues")


def run(main: Callable[[config.Experiment, str], Any]) -> None:
    """Runs ``main(experiment, workdir)`` of a config that describes one run."""
    run_with_config(lambda raw, workdir: main(config.read(raw), workdir))


def run_with_config(main: Callable[[config_dict.ConfigDict, str], Any]) -> None:
    """Runs ``main(config, workdir)``; leftover arguments and missing flags are refused."""
    _list_in_help(_CONFIG)
    start(lambda: main(_required(_CONFIG, "configs/quickstart.py"), required_workdir()))


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
            main()
        except (ValueError, OSError) as error:
            if logging.get_verbosity() > logging.INFO:
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
        _refuse_unknown_keys(arguments)
        left = app.parse_flags_with_usage([x for x in arguments if x not in cleared])
    except OSError as error:
        sys.exit(f"error: {error}")
    for override in cleared:
        *sections, key = override.removeprefix("--config.").removesuffix("=None").split(".")
        section = functools.reduce(getattr, sections, _CONFIG.value)
        with section.ignore_type():  # whether it may be None is for the door to say
            section[key] = None
    return left


def _refuse_unknown_keys(arguments: list[str]) -> None:
    """Ends the command with every override of a key that the config does not have, and the nearest right name."""
    files = [x.removeprefix("--config=") for x in arguments if x.startswith("--config=")]
    if not files:
        return
    values = flags.FLAGS["config"].parser.parse(files[-1])
    errors = []
    for override in arguments:
        if not override.startswith("--config."):
            continue
        section, path = values, "config"
        for key in override.split("=")[0].removeprefix("--config.").split("."):
            name = key.split("[")[0]
            if not isinstance(section, config_dict.ConfigDict) or name not in section:
                known = sorted(section) if isinstance(section, config_dict.ConfigDict) else []
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"{path} has {', '.join(known) or 'no keys'}"
                errors.append(f"  - {path}.{name} is unknown: {hint}")
                break
            section, path = section[name], f"{path}.{name}"
    if errors:
        sys.exit("error: the command line has unknown keys:\n" + "\n".join(errors))


def _required(flag: flags.FlagHolder, example: str) -> Any:
    if flag.value is None:
        sys.exit(f"error: --{flag.name} is missing: give, for example, --{flag.name}={example}")
    return flag.value
