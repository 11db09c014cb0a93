"""Files between the local disk and the durable copy: fetched if missing, sent if new, visible when whole."""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from srpo.artifacts import FileEntry, Snapshot
from srpo.config import StorageConfig
from srpo.durable.manifest import NAME, FolderManifest
from srpo.errors import ConfigError, UnreachableError
from srpo.hub import digests
from srpo.hub.listing import RemoteFile, safe_path
from srpo.hub.store import bucket_at, continue_download, lock_below
from srpo.strict import Strict

if TYPE_CHECKING:
    from srpo.hub.s3_object import ConditionalObject

ROOT, STORE = ".srpo", "store"
"""The working folder, and what in it has a shared form of its own."""
OWN_COPIES = ("checkpoints", "lock", "error.json")
"""What in the folder of a training is not part of its copy: folders that are copied one by one, and what is over."""
SMALL = 64 * 2**20
"""Bytes up to which a file is read at once, so that what is sent is what was hashed, even of one that still grows."""

FILES_AT_ONCE = 4

Manifest = TypeVar("Manifest", bound=Strict)


def mirror_of(storage: StorageConfig) -> "Mirror":
    """The durable copy that a run's config names, as seen from the current folder."""
    return Mirror(storage.remote, Path.cwd().resolve() / ROOT)


class Mirror:
    """The durable copy behind a working folder; `remote` None: there is none, and nothing is done."""

    def __init__(self, remote: str | None, root: Path) -> None:
        self.bucket = bucket_at(remote)
        self.root = root

    def local(self, path: str | Path) -> Path:
        """A path that a step on another node has recorded, below this node's working folder."""
        below = _below(Path(path))
        return self.root / below if self.bucket and below else Path(path)

    def here(self, manifest: Manifest) -> Manifest:
        """A step's manifest with this node's paths, the files of all its snapshots fetched if they are missing."""
        if self.bucket is None:
            return manifest
        return type(manifest).model_validate(self._here(manifest.model_dump()))

    def holds(self, snapshot: Snapshot) -> bool:
        """Whether all files of a snapshot of a step's folder are here, as they were recorded, or in the copy."""
        folder = self.local(snapshot.path)
        return all(
            _is_here(folder / entry.path, entry)
            or (self.bucket is not None and self._has(self._key(folder / entry.path, entry.sha256), entry.size))
            for entry in snapshot.files
        )

    def fetch(self, folder: Path, into: Path | None = None, names: Callable[[str], bool] = lambda _: True) -> bool:
        """Bring what is missing or differs of a folder, to where it lies or `into` another; False if it has no copy.

        `names`: which files are wanted, by their paths in the folder.
        """
        if self.bucket is None:
            return False
        while found := self.manifest(folder):
            try:
                self._fetch_all(folder, [file for file in found.files if names(file.path)], into or folder)
            except ConfigError:
                if self.manifest(folder) == found:
                    raise  # else its owner has written it anew meanwhile
            else:
                return True
        return False

    def push(
        self,
        folder: Path,
        left_out: Iterable[str] = (),
        shared: bool = False,
        confirm: Callable[[], None] = lambda: None,
    ) -> int:
        """Send what is new of a folder, then its manifest; the bytes sent.

        Hidden files, and those named or below what is named in `left_out`, stay. `shared`: other runs write to the
        folder too, and may still read a content that was replaced. `confirm` is called before the manifest changes.
        """
        if self.bucket is None:
            return 0
        before = self.manifest(folder) or FolderManifest()
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            sent = list(pool.map(lambda name: self._send(folder, name, before), _names(folder, set(left_out))))
        confirm()
        later = self._publish(folder, tuple(entry for entry, _ in sent))
        if not shared:
            self._tidy(folder, later)
        return sum(size for _, size in sent)

    def copy(self, folder: Path, target: Path) -> None:
        """Give another folder what the copy holds of one, then its manifest, within S3."""
        found = self.manifest(folder)
        if self.bucket is None or found is None:
            return
        for file in found.files:
            key = self._key(target / file.path, file.sha256)
            if not self._has(key, file.size):
                self.bucket.copy(self._key(folder / file.path, file.sha256), key)
        self._publish(target, found.files)

    def manifest(self, folder: Path) -> FolderManifest | None:
        """What the copy of a folder holds; None if there is none."""
        found = self._object(folder).read()
        return FolderManifest.model_validate(found[1]) if found else None

    def folders(self, parent: Path) -> list[str]:
        """Names of the folders right below another whose copy is whole, sorted."""
        assert self.bucket
        return [name for name in self.begun(parent) if self.bucket.head(self._key(parent / name, NAME)) is not None]

    def begun(self, parent: Path) -> list[str]:
        """Names of the folders right below another of which something has been sent, sorted."""
        assert self.bucket
        return self.bucket.folders(self._key(parent))

    def remove(self, folder: Path) -> None:
        """Remove the copy of a folder, what makes it visible first; also one that was never whole."""
        assert self.bucket
        self.bucket.delete(self._key(folder, NAME))
        for key in self.bucket.keys(f"{self._key(folder)}/"):
            self.bucket.delete(key)

    def _here(self, value: Any) -> Any:
        """Strings that are paths below a working folder become this node's."""
        if isinstance(value, dict):
            mapped = {key: self._here(each) for key, each in value.items()}
            if Snapshot.model_fields.keys() <= mapped.keys():
                self._fetch_snapshot(Snapshot.model_validate(mapped))
            return mapped
        if isinstance(value, (list, tuple)):
            return type(value)(self._here(each) for each in value)
        return str(self.local(value)) if isinstance(value, str) and value.startswith("/") else value

    def _fetch_snapshot(self, snapshot: Snapshot) -> None:
        """Bring a snapshot's files, if it is of those that steps make."""
        below = _below(snapshot.path)
        if below is None or below.parts[:1] == (STORE,):
            return
        self._fetch_all(snapshot.path, snapshot.files, snapshot.path)

    def _fetch_all(self, folder: Path, files: Iterable[FileEntry], into: Path) -> None:
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            list(pool.map(lambda entry: self._fetch(folder, entry, into), files))

    def _fetch(self, folder: Path, entry: FileEntry, into: Path) -> None:
        """Bring one file, unless it is here with this content; what is here otherwise is replaced."""
        assert self.bucket
        path = into / safe_path(entry.path, str(folder))
        with lock_below(self.root, f"{path} {entry.sha256}"):  # of this node's disk, which is what it fills
            if _is_here(path, entry):
                return
            bucket, key = self.bucket, self._key(folder / entry.path, entry.sha256)
            partial = path.with_name(f".{path.name}.{entry.sha256[:8]}.fetched")
            file = RemoteFile(path=entry.path, size=entry.size, sha256=entry.sha256)
            if not continue_download(lambda start: bucket.read(key, entry.size, "", start), partial, file, bucket.uri):
                raise UnreachableError(f"{bucket.uri}: {entry.path} arrived damaged and was removed; try again")
            partial.replace(path)

    def _send(self, folder: Path, name: str, before: FolderManifest) -> tuple[FileEntry, int]:
        """Send one file, unless this content is there; (entry, bytes sent)."""
        assert self.bucket
        path = folder / name
        size = path.stat().st_size
        content = path.read_bytes() if size <= SMALL else None
        digest = digests.sha256(path) if content is None else hashlib.sha256(content).hexdigest()
        entry = FileEntry(path=name, size=size if content is None else len(content), sha256=digest)
        key = self._key(path, digest)
        if entry in before or (content is None and self._has(key, size)):
            return entry, 0
        if content is None:
            self.bucket.upload(path, key)
        else:
            self.bucket.put(key, content)
        return entry, entry.size

    def _has(self, key: str, size: int) -> bool:
        """Whether an earlier attempt has sent it; S3 shows an object only when it is whole."""
        assert self.bucket
        facts = self.bucket.head(key)
        return facts is not None and facts["ContentLength"] == size

    def _publish(self, folder: Path, entries: tuple[FileEntry, ...]) -> FolderManifest:
        """Name these files in the folder's manifest, beside what others have named meanwhile."""
        target = self._object(folder)
        while True:
            etag, content = target.read() or (None, {})
            later = FolderManifest.model_validate(content).with_files(entries)
            if (etag and later == FolderManifest.model_validate(content)) or target.write(later.model_dump(), etag):
                return later

    def _tidy(self, folder: Path, manifest: FolderManifest) -> None:
        """Remove other contents of a folder's files: those replaced, and those sent by a node that was lost then."""
        assert self.bucket
        prefix = f"{self._key(folder)}/"
        named = {file.path: file.sha256 for file in manifest.files}
        for key in self.bucket.keys(prefix):
            path, _, sha256 = key.removeprefix(prefix).rpartition("/")
            if named.get(path, sha256) != sha256:
                self.bucket.delete(key)

    def _object(self, folder: Path) -> "ConditionalObject":
        assert self.bucket
        from srpo.hub.s3_object import ConditionalObject

        return ConditionalObject(self.bucket, self._key(folder, NAME))

    def name(self, path: Path) -> str:
        """What a path is called in the copy, below its prefix; ConfigError if it lies in no working folder."""
        below = _below(path)
        if below is None:
            raise ConfigError(f"{path} does not lie below a folder {ROOT}, which is what storage.remote keeps")
        return below.as_posix()

    def _key(self, path: Path, name: str = "") -> str:
        assert self.bucket
        return self.bucket.key(self.name(path), name)


def _below(path: Path) -> PurePosixPath | None:
    """The part of a path below its working folder; None if it lies in none."""
    parts = path.parts
    if ROOT not in parts:
        return None
    last = len(parts) - 1 - parts[::-1].index(ROOT)
    return PurePosixPath(*parts[last + 1 :])


def _is_here(path: Path, entry: FileEntry) -> bool:
    """Whether a file is on this disk with the content that was recorded."""
    return path.is_file() and path.stat().st_size == entry.size and digests.sha256(path) == entry.sha256


def _names(folder: Path, left_out: set[str]) -> list[str]:
    """Files to be sent, relative to the folder, sorted."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(
        path.as_posix()
        for path in paths
        if path.parts[0] not in left_out and not any(part.startswith(".") for part in path.parts)
    )
