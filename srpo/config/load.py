"""Run files and overrides become a `RunConfig`, or one clear error."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from srpo.config.run import SCHEMA_VERSION, RunConfig
from srpo.errors import ConfigError, problem_text


def load_config(paths: Path | Sequence[Path], overrides: tuple[str, ...] = ()) -> RunConfig:
    """Read a YAML run file, and others that change it in the order given, apply `a.b=value` overrides, and check all.

    ConfigError names each wrong key. Warns of gates that trained rewards alone decide.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    data: dict[str, Any] = {}
    for path in files:
        data = _merged(data, _read(path))
    for override in overrides:
        _set(data, override)
    config = parse_config(data, " + ".join(map(str, files)))
    if config.trained_metrics_decide:
        warnings.warn(
            f"evaluation.gate: nothing decides but what is trained on ({', '.join(config.trained_metrics)}), which "
            "also rises where it is cheated; name another metric there",
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
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no config file at {path}; see configs/ for examples") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read as a run file: {error.strerror}; see configs/ for examples") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold a mapping of settings, got {type(data).__name__}")
    return data


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
    if problem["type"] == "extra_forbidden":
        return f"{origin}: {problem_text({**problem, 'msg': 'unknown key'})}"
    got = "" if problem["type"] == "value_error" else f" (got {problem['input']!r})"
    return f"{origin}: {problem_text(problem, 'the file')}{got}"


def _set(data: dict[str, Any], override: str) -> None:
    """Apply one `a.b=value`; the value is read as YAML."""
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override!r} must have the form section.key=value")
    *sections, last = key.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {override!r}: {section!r} is a value, not a section")
    try:
        data[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML") from None
