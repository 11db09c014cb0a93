"""Run files and overrides become a `RunConfig`, or one clear error."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from yaml.composer import ComposerError

from srpo.config.run import SCHEMA_VERSION, RunConfig
from srpo.errors import ConfigError, problem_text

IN_WORDS = {
    "extra_forbidden": "unknown key; `settings` lists what there is",
    "tuple_type": "give a list, as [one, two]",
    "model_type": "give its settings, as {key: value}",
}
"""Kind of pydantic's error -> what is said instead of its own words."""


class _Loader(yaml.SafeLoader):
    """YAML in which a mapping says nothing twice; PyYAML would take the last."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        """The mapping as it is written, before `<<` adds to it; ComposerError names a repeated key, with its line."""
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen = set[str]()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise ComposerError(None, None, f"{key.value!r} is there a second time", key.start_mark)
            seen.add(key.value)
        return node


def load_config(paths: str | Path | Sequence[str | Path], overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML run file, and others that change it in the order given, apply `a.b=value` overrides, and check all.

    ConfigError names each wrong key. Warns of gates that rest on trained rewards and meters alone.
    """
    files = [Path(path) for path in ([paths] if isinstance(paths, (str, Path)) else paths)]
    data: dict[str, Any] = {}
    for path in files:
        data = _merged(data, _read(path))
    for override in overrides:
        _set(data, override)
    config = parse_config(data, " + ".join([*map(str, files), *(["--set"] if overrides else [])]))
    if gates := config.unjudged_gates:
        warnings.warn(
            f"{' and '.join(gates)}: nothing decides but what is trained on ({', '.join(config.trained_metrics)}), "
            "which also rises where it is cheated, and meters of damage; add --config configs/scores/held_out.yaml "
            "(unless the reward is PickScore), or name there another metric that nothing is trained towards",
            stacklevel=2,
        )
    if judges := config.trained_judges:
        warnings.warn(
            f"{' and '.join(judges)}: {', '.join(dict.fromkeys(judges.values()))} is a held-out score of the very "
            "checkpoint that is trained on, so that it rises where that is cheated; name another metric",
            stacklevel=2,
        )
    return config


def with_overrides(config: RunConfig, overrides: tuple[str, ...], origin: str) -> RunConfig:
    """The config with `a.b=value` overrides. ConfigError as of `load_config`."""
    data = config.model_dump(mode="json")
    for override in overrides:
        _set(data, override)
    return parse_config(data, origin)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Sections are merged key by key; any other value of `above` replaces that of `below`."""
    both = {key for key in below.keys() & above.keys() if isinstance(below[key], dict) and isinstance(above[key], dict)}
    return below | above | {key: _merged(below[key], above[key]) for key in both}


def _read(path: Path) -> dict[str, Any]:
    """The settings of one file."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"no config file at {path}; see configs/ for examples") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read as a run file: {error.strerror}; see configs/ for examples") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, got {type(data).__name__}")
    return _without_empty(data, RunConfig)


def _without_empty(data: dict[str, Any], section: type[BaseModel]) -> dict[str, Any]:
    """Sections whose lines are all comments, which are null to YAML, count as left out."""
    kinds = {name: field.annotation for name, field in section.model_fields.items()}
    kept = {}
    for key, value in data.items():
        kind = kinds.get(key)
        inner = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
        if value is not None or not (inner or get_origin(kind) is dict):
            kept[key] = _without_empty(value, inner) if inner and isinstance(value, dict) else value
    return kept


def parse_config(data: dict[str, Any], origin: str) -> RunConfig:
    """Check a mapping of settings; ConfigError lists every wrong key with its path."""
    version = data.get("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise ConfigError(
            f"{origin} has schema_version {version!r}, this srpo reads {SCHEMA_VERSION}; "
            "use the srpo that wrote it, or bring the file up to date"
        )
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError("\n".join(_describe(origin, problem) for problem in error.errors())) from None


def _describe(origin: str, problem: Mapping[str, Any]) -> str:
    """One line per problem: where, what was expected, what was got."""
    said = problem_text({**problem, "msg": IN_WORDS.get(problem["type"], problem["msg"])})
    got = "" if problem["type"] in ("value_error", "extra_forbidden") else f" (got {problem['input']!r})"
    return f"{origin}: {said}{got}"


def _set(data: dict[str, Any], override: str) -> None:
    """Apply one `a.b=value`; the value is read as YAML."""
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override!r} must have the form section.key=value")
    *sections, last = key.split(".")
    for section in sections:
        if data.get(section) is None:
            data[section] = {}
        data = data[section]
        if not isinstance(data, dict):
            raise ConfigError(f"--set {override!r}: {section!r} is a value, not a section")
    try:
        data[last] = yaml.load(value, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML: {error}") from None
