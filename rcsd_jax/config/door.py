"""An ``ml_collections.ConfigDict`` comes in, a frozen ``Experiment`` goes on, and every error is told at once."""

from __future__ import annotations

import copy
import dataclasses
import difflib
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from ml_collections import config_dict

from rcsd_jax.config.contradictions import contradictions
from rcsd_jax.config.experiment import Experiment


class ConfigError(ValueError):
    """All that is wrong with a config, one line each."""

    def __init__(self, errors: list[str]):
        super().__init__(
            "the config has {} error{}:\n{}".format(
                len(errors), "s" if len(errors) > 1 else "", "\n".join(f"  - {error}" for error in errors)
            )
        )
        self.errors = errors


def default() -> config_dict.ConfigDict:
    """Every key with its default; a config file edits this."""
    return _to_config_dict(Experiment())


def pipeline(
    title: str, common: config_dict.ConfigDict, parts: Mapping[str, Mapping[str, Any]], *, baseline: str
) -> config_dict.ConfigDict:
    """What ``rcsd_jax.pipeline`` runs: every part is the experiment ``common`` with some values changed.

    Args:
      title: of the report.
      common: what all parts share, made of ``default()``.
      parts: by name, in the order in which they run: ``run`` ("train", "write_rubrics", "rubric_effect" or
        "evaluate"), ``description`` and ``set``, the values that this part changes.
      baseline: the part that the others are compared with.
    """
    config = config_dict.ConfigDict({"title": title, "baseline": baseline, "order": tuple(parts)})
    config.common = common
    # One by one: converted together, parts would share what they have in common, also when one is overridden.
    config.parts = {name: config_dict.ConfigDict(part, convert_dict=True) for name, part in parts.items()}
    return config


def read(config: config_dict.ConfigDict | Mapping[str, Any]) -> Experiment:
    """The frozen experiment of a config.

    Raises:
      ConfigError: unknown keys (with the nearest right name), wrong types, values out of range, and values that
        contradict each other, all in one message.
    """
    errors: list[str] = []
    values = config.to_dict() if isinstance(config, config_dict.ConfigDict) else dict(config)
    experiment = _build(Experiment, values, "config", errors)
    errors += contradictions(experiment)
    if errors:
        raise ConfigError(errors)
    return experiment


# What a run may change while it is under way: no number that it makes depends on these.
FREE = (
    *(
        "description",
        "writers",
        "mesh",
        "train.checkpoint_every",
        "train.keep_every",
        "train.trajectories_every",
        "evaluation.every",
    ),
    *(f"reward.endpoint.{key}" for key in ("url", "concurrency", "retries", "timeout", "deadline", "cache")),
)


def without_free(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a config, as from JSON, without the keys of ``FREE``."""
    kept = copy.deepcopy(dict(values))
    for path in FREE:
        *sections, key = path.split(".")
        section = kept
        for name in sections:
            section = section.get(name, {})
        section.pop(key, None)
    return kept


def completed(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config, as from JSON, with the defaults of the keys that came later: they reproduce what was before."""
    return _merged(json.loads(to_json(Experiment())), stored)


def as_stored(experiment: Experiment, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an experiment, as JSON, without keys that ``stored`` lacks where they have their defaults."""
    return _without_later(json.loads(to_json(experiment)), stored, json.loads(to_json(Experiment())))


def content_hash(experiment: Experiment, stored: Mapping[str, Any] | None = None) -> str:
    """A short hash of everything that a run's numbers depend on; with ``stored`` of what ``as_stored`` gives."""
    values = json.loads(to_json(experiment)) if stored is None else as_stored(experiment, stored)
    return hashlib.sha256(json.dumps(without_free(values), sort_keys=True).encode()).hexdigest()[:16]


def to_json(experiment: Experiment) -> str:
    """The experiment as JSON text, keys sorted; ``read(json.loads(text))`` gives it back."""
    return json.dumps(dataclasses.asdict(experiment), sort_keys=True, indent=1)


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    inner = {key: _merged(values[key], changes[key]) for key in _sections(values, changes)}
    return {**values, **changes, **inner}


def _without_later(values: Mapping[str, Any], stored: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in values.items() if key in stored or value != defaults[key]}
    inner = {key: _without_later(values[key], stored[key], defaults[key]) for key in _sections(values, stored)}
    return {**kept, **inner}


def _sections(values: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    return [key for key in values if isinstance(values[key], Mapping) and isinstance(others.get(key), Mapping)]


def _to_config_dict(value: Any) -> config_dict.ConfigDict:
    result = config_dict.ConfigDict()
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if dataclasses.is_dataclass(item):
            result[field.name] = _to_config_dict(item)
        elif item is None:
            result[field.name] = config_dict.placeholder(_without_none(hints[field.name])[0])
        else:
            result[field.name] = item
    return result


def _without_none(hint: Any) -> tuple[Any, bool]:
    """(the type, whether None is allowed too)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        arguments = [argument for argument in typing.get_args(hint) if argument is not type(None)]
        return arguments[0], len(arguments) < len(typing.get_args(hint))
    return hint, False


def _build(kind: type, values: Mapping[str, Any], path: str, errors: list[str]) -> Any:
    """A record of the values that are sound, with defaults for the others, so that the search for errors can go on."""
    hints = typing.get_type_hints(kind)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            near = difflib.get_close_matches(key, sorted(hints), n=1, cutoff=0.5)
            hint = f": did you mean {near[0]!r}?" if near else f": there are {', '.join(sorted(hints))}"
            errors.append(f"{path}.{key} is unknown{hint}")
        elif dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            arguments[key] = _build(hints[key], value, f"{path}.{key}", errors)
        else:
            try:
                arguments[key] = _convert(hints[key], value, f"{path}.{key}")
            except ValueError as error:
                errors.append(str(error))
    return _sound(kind, arguments, path, errors)


def _sound(kind: type, arguments: dict[str, Any], path: str, errors: list[str]) -> Any:
    """``kind(**arguments)``, without the values that it refuses.

    A record names its first fault only. The value whose absence changes that is left out, to see what the next one is.
    """

    def fault(values: dict[str, Any]) -> str | None:
        try:
            kind(**values)
        except ValueError as error:
            return str(error)
        return None

    while (found := fault(arguments)) is not None:
        errors.append(f"{path}: {found}")
        others = [{key: value for key, value in arguments.items() if key != name} for name in arguments]
        arguments = next((values for values in others if fault(values) != found), {})
    return kind(**arguments)


def _convert(hint: Any, value: Any, path: str) -> Any:
    """``value`` as the type that the field has; ValueError where it is of another."""
    hint, optional = _without_none(hint)
    if value is None and optional:
        return None
    if dataclasses.is_dataclass(hint):
        raise ValueError(f"{path} is {value!r}: give a section with the keys of {hint.__name__}")
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{path} is {value!r}: give a list of {inner.__name__}")
        return tuple(_convert(inner, item, f"{path}[{i}]") for i, item in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{path} is {value!r} ({type(value).__name__}): give {hint.__name__}")
    if hint is float and not math.isfinite(value):
        raise ValueError(f"{path} is {value}: give a finite number")
    return value
