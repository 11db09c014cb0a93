"""What a remote source holds, before any of it is fetched: names, sizes, versions, hashes where they are announced."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Protocol

from pydantic import Field

from srpo.errors import ConfigError
from srpo.strict import Strict

INDEX, CARD = "model_index.json", "README.md"
UNREAD = {".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".ot", ".pb", ".pickle", ".pkl", ".pt", ".pth"}
"""Other forms of the same weights; where a folder has safetensors, only those are read."""


class RemoteFile(Strict):
    """One file of a remote source."""

    path: str
    """Relative to the source."""
    size: int
    """Bytes."""
    version: str = ""
    """Changes with the content: git's blob id, or an ETag."""
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Of the content; empty until it is known."""


class Listing(Strict):
    """The files of a remote source that are needed; with every sha256 filled in, it is the store's manifest of it."""

    source: str
    origin: str
    """The repository or bucket, the same for every source in it."""
    single: bool = False
    """The source names one file, not a folder."""
    revision: str = ""
    """The commit, where the source has commits."""
    licence: str = ""
    files: tuple[RemoteFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def state(self) -> str:
        """One hash that changes when the source does."""
        facts = [(file.path, file.size, file.version) for file in self.files]
        return hashlib.sha256(json.dumps([self.source, self.revision, facts]).encode()).hexdigest()


class OfflineError(ConfigError):
    """The user has forbidden to reach the origin."""


class Origin(Protocol):
    """Where the files of a remote source come from."""

    def listing(self) -> Listing:
        """What there is; ConfigError if it cannot be had, UnreachableError or OfflineError if it is out of reach."""

    def read(self, file: RemoteFile, start: int) -> Iterator[bytes]:
        """The content from byte `start` on; UnreachableError if it breaks off."""

    def at_hand(self, file: RemoteFile) -> Path | None:
        """The file on this machine, if another program has fetched it already."""


def needed(paths: Iterable[str], read_index: Callable[[], bytes]) -> set[str]:
    """The files worth having: of a diffusers folder its parts and licence, anywhere no second form of the same weights.

    A published folder often has all its weights a second time in one file beside the parts, which nothing here loads.
    """
    paths = set(paths)
    if INDEX in paths:
        parts = _parts(read_index())
        paths = {path for path in paths if path == INDEX or is_licence(path) or path.split("/")[0] in parts}
    folders = {str(PurePosixPath(path).parent) for path in paths if path.endswith(".safetensors")}
    return {path for path in paths if not _second_form(PurePosixPath(path), folders)}


def holds_weights(path: str) -> bool:
    """Whether a file is large, going by its name."""
    return PurePosixPath(path).suffix.lower() in UNREAD | {".safetensors"}


def is_licence(path: str) -> bool:
    """A licence at the top of a source."""
    return "/" not in path and path.lower().startswith(("license", "licence"))


def licence_text(path: Path) -> str:
    """The first words of the licence beside a file or in a folder."""
    folder = path.parent if path.is_file() else path
    for file in sorted(folder.iterdir()):
        if is_licence(file.name) and file.is_file():
            with file.open(encoding="utf-8", errors="replace") as text:
                lines = (line.strip("# \t\r\n") for line in text)
                return next((line for line in lines if line), "")[:100]
    return ""


def safe_path(path: str, source: str) -> str:
    """The path, if it stays inside its folder."""
    if path.startswith("/") or "\\" in path or {"", ".", ".."} & set(path.split("/")):
        raise ConfigError(f"{source} holds a file named {path!r}, which would be written outside its folder")
    return path


def _parts(index: bytes) -> set[str]:
    """The parts that a diffusers index names; each is a folder."""
    try:
        content = json.loads(index)
    except ValueError as error:
        raise ConfigError(f"{INDEX} is not valid JSON ({error}); fetch the folder again") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{INDEX} must hold a mapping of parts, got {type(content).__name__}")
    return {name for name, value in content.items() if isinstance(value, list)}


def _second_form(path: PurePosixPath, folders: set[str]) -> bool:
    return path.suffix.lower() in UNREAD and str(path.parent) in folders
