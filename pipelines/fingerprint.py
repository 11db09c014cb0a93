"""What a cached step's result depends on, as short hashes: when one changes, the step runs again.

Prompt files count by content; weights by name, size and time of change, because reading 24 GB to learn that nothing has
changed would cost as much as the step; code by the source of a module and of every srpo module that it imports.
"""

import ast
import hashlib
import importlib.util
from functools import cache
from pathlib import Path

from srpo.config import RunConfig
from srpo.hub import Part, is_remote, local_files, resolve, survey
from srpo.images.files import find
from srpo.prompts.files import Split, prompt_file


def combine(*parts: str) -> str:
    """One short hash of several texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def of_source(source: str, part: Part) -> str:
    """State of weights wherever they lie; of remote ones what their origin says now."""
    return combine(survey(source, part).state) if is_remote(source) else of_weights(resolve(source, part))


def of_weights(path: Path) -> str:
    """Name, size and time of change of a file, or of all files that are read from a folder."""
    root = path.parent if path.is_file() else path
    files = [(root / name, (root / name).stat()) for name in local_files(path)]
    return combine(repr([(str(file), facts.st_size, facts.st_mtime_ns) for file, facts in files]))


def of_prompts(source: str, split: Split) -> str:
    """Content of a prompt file; the captions of an embedded world are code."""
    path = prompt_file(source, split)
    return combine(path.read_text(encoding="utf-8")) if path.is_file() else combine(source)


def of_images(source: str) -> str:
    """Name, size, time of change and caption of all images of a source; of a remote one what its origin says now."""
    if is_remote(source):
        return combine(survey(source, "images").state)
    entries = [(entry, entry.path.stat()) for entry in find(resolve(source, "images")) if entry.path]
    return combine(repr([(*entry, facts.st_size, facts.st_mtime_ns) for entry, facts in entries]))


def of_data(config: RunConfig) -> str:
    """Content of all prompts of a run, state of its images."""
    return combine(
        of_prompts(config.prompts.train, "train"),
        of_prompts(config.prompts.held_out, "held_out"),
        of_images(config.images.source) if config.images else "",
    )


def of_code(module: str) -> str:
    """Source of an srpo module and of all srpo modules it imports, directly or not."""
    return combine(*(_source(name) for name in sorted(_reachable(module))))


def _reachable(module: str) -> set[str]:
    found, pending = set(), {module}
    while pending:
        found |= pending
        pending = {name for current in pending for name in _imports(current)} - found
    return found


@cache
def _source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec, f"no module {module}"
    assert spec.origin, f"{module} has no source"
    return Path(spec.origin).read_text(encoding="utf-8")


@cache
def _imports(module: str) -> frozenset[str]:
    """Modules of srpo named by the import statements of a module, with the packages they lie in."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    names = {name for name in names if name.split(".")[0] == "srpo"}
    packages = {".".join(name.split(".")[:depth]) for name in names for depth in range(1, name.count(".") + 1)}
    return frozenset(name for name in names | packages if _is_module(name))


def _is_module(name: str) -> bool:
    """A module, not a function or class of one."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
