"""The store: every file once, under its sha256; folders of links for those who want names; a manifest per source.

    files/<sha256>           the content, or a link to where another program keeps it
    partial/<identity>       a download that broke off, continued by the next
    known/<identity>         the sha256 of a remote file that has been fetched; identity: its origin, path and version
    sources/<source>.json    the listing of a source as it was last fetched
    trees/<snapshot>/...     links into files/, in the form of the source

An S3 prefix behind it (SRPO_STORE=s3://...) holds `files/` and `sources/` for nodes that share them.
"""

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from filelock import FileLock

from srpo.artifacts import FileEntry, Snapshot
from srpo.errors import UnreachableError
from srpo.files import write_atomic
from srpo.hub import digests
from srpo.hub.listing import Listing, Origin, RemoteFile, safe_path
from srpo.hub.place import shared_uri, store_dir
from srpo.hub.progress import FetchProgress

if TYPE_CHECKING:
    from srpo.hub.s3 import Bucket

ATTEMPTS = 5
"""Tries in a row that bring no byte before a download gives up."""
PAUSE = 1.0
"""Seconds before the second of them; the third waits twice as long, and so on."""


def identity(place: str, file: RemoteFile) -> str:
    """Names a remote file whose content cannot change under this name; `place`: its repository or bucket."""
    return hashlib.sha256(f"{place}\0{file.path}\0{file.version}\0{file.size}".encode()).hexdigest()


class Store:
    """The local store, and the shared one behind it."""

    def __init__(self) -> None:
        self.root = store_dir()
        self.shared = bucket_at(shared_uri())

    def lock(self, name: str) -> AbstractContextManager[None]:
        """One process at a time fetches what has this name; the others wait, then find it fetched."""
        return lock_below(self.root, name)

    def listing_of(self, source: str) -> Listing | None:
        """The listing of a source as it was last fetched, here or by another node."""
        key = f"sources/{_name(source)}.json"
        path = self.root / key
        if path.is_file():
            return Listing.model_validate_json(path.read_bytes())
        content = self.shared.get(self.shared.key(key)) if self.shared else None
        return Listing.model_validate_json(content) if content else None

    def keep(self, listing: Listing) -> None:
        """Write the manifest: here, and to the shared store after all that it names."""
        key, text = f"sources/{_name(listing.source)}.json", listing.model_dump_json(indent=1)
        if self.shared:
            for file in listing.files:
                self._share(file)
            self.shared.put(self.shared.key(key), text.encode())
        write_atomic(self.root / key, text)

    def whole(self, sha256: str) -> Path | None:
        """The file with this content, if it is here and has not been damaged; a damaged one is removed."""
        path = self.root / "files" / sha256
        if not path.is_file():
            return None
        if digests.sha256(path) == sha256:
            return path
        path.unlink()
        return None

    def has(self, place: str, file: RemoteFile) -> bool:
        """Whether a file of an origin is here, going by its size."""
        sha256 = self._known(place, file)
        path = self.root / "files" / sha256
        return bool(sha256) and path.is_file() and path.stat().st_size == file.size

    def obtain(self, origin: Origin, place: str, file: RemoteFile, progress: FetchProgress) -> RemoteFile:
        """The file in the store, with its sha256: found here, in the shared store or another cache, or else fetched."""
        name = identity(place, file)
        with self.lock(name):
            sha256 = self._known(place, file)
            if sha256 and (self.whole(sha256) or self._copy_shared(sha256, file.size)):
                progress.advance(file.size)
            else:
                sha256 = self._adopt(origin, file) or self._download(origin, place, file, progress)
                progress.done(file.path, file.size)
            write_atomic(self.root / "known" / name, sha256)
        return file.model_copy(update={"sha256": sha256})

    def take(self, entry: FileEntry) -> bool:
        """Whether a file of a snapshot is in the store, brought from the shared one if need be."""
        return bool(self.whole(entry.sha256) or self._copy_shared(entry.sha256, entry.size))

    def tree(self, listing: Listing) -> Snapshot:
        """The files of a listing under their names; one file alone goes without its folders."""
        single = listing.single
        files = tuple(
            FileEntry(path=PurePosixPath(file.path).name if single else file.path, size=file.size, sha256=file.sha256)
            for file in listing.files
        )
        snapshot = Snapshot(
            source=listing.source, uri="", files=files, revision=listing.revision, licence=listing.licence
        )
        return self.link(snapshot, files[0].path if single else "")

    def link(self, snapshot: Snapshot, within: str = "") -> Snapshot:
        """Links to all files of a snapshot; `within`: the one file of a source that is no folder."""
        tree = self.root / "trees" / snapshot.sha256[:16]
        for file in snapshot.files:
            self._link(self.root / "files" / file.sha256, tree / safe_path(file.path, snapshot.source))
        with suppress(OSError):  # where it may only be read, nobody frees anything
            os.utime(tree)  # see `unused`
        return snapshot.model_copy(update={"uri": str(tree / within)})

    def _adopt(self, origin: Origin, file: RemoteFile) -> str:
        """Link to the file where another program keeps it, if its content is the announced one."""
        found = origin.at_hand(file)
        sha256 = checked(found, file) if found else ""
        if found and sha256:
            self._link(found, self.root / "files" / sha256)
        return sha256

    def _known(self, place: str, file: RemoteFile) -> str:
        """The sha256 that was announced, or found when the file was fetched; empty if neither."""
        note = self.root / "known" / identity(place, file)
        return file.sha256 or (note.read_text(encoding="utf-8") if note.is_file() else "")

    def _download(self, origin: Origin, place: str, file: RemoteFile, progress: FetchProgress) -> str:
        """Fetch what is missing; the whole is checked against what the origin announced, then known by its sha256."""
        partial = self.root / "partial" / identity(place, file)
        sha256 = continue_download(lambda start: origin.read(file, start), partial, file, place, progress.advance)
        if not sha256:
            raise UnreachableError(f"{place}: {file.path} arrived damaged and was removed; fetch it again")
        self._move(partial, sha256)
        return sha256

    def _copy_shared(self, sha256: str, size: int) -> Path | None:
        """Bring a file from the shared store, if it is there whole; a copy that broke off continues."""
        if self.shared is None:
            return None
        key, partial = self.shared.key("files", sha256), self.root / "partial" / sha256
        with self.lock(sha256):
            facts = None if (path := self.whole(sha256)) else self.shared.head(key)
            if facts is None or facts["ContentLength"] != size:
                return path
            shared, file = self.shared, RemoteFile(path=sha256, size=size, sha256=sha256)
            arrived = continue_download(lambda start: shared.read(key, size, "", start), partial, file, shared.uri)
            return self._move(partial, sha256) if arrived else None

    def _move(self, partial: Path, sha256: str) -> Path:
        """A finished download takes its place; a link that leads nowhere gives way."""
        path = self.root / "files" / sha256
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(path)
        digests.remember(path, sha256)
        return path

    def _link(self, target: Path, path: Path) -> None:
        """A link that appears at once, whatever was there before."""
        if path.is_symlink() and path.readlink() == target:
            return
        draft = self.root / "partial" / f"link-{os.getpid()}-{threading.get_ident()}"
        for folder in (draft.parent, path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        draft.symlink_to(target)
        draft.replace(path)

    def _share(self, file: RemoteFile) -> None:
        """Put a file into the shared store, under the name of its content, unless it is there."""
        assert self.shared
        key = self.shared.key("files", file.sha256)
        there = self.shared.head(key)
        if there is None or there["ContentLength"] != file.size:
            self.shared.upload(self.root / "files" / file.sha256, key)


def unused(needed: Collection[Path], since: float) -> list[Path]:
    """What may go from the local store: trees that were not asked for since then (seconds of the epoch), unless one of
    the paths `needed` leads through a tree of that name; then the files and partial downloads, as old, that no tree
    which stays links to.
    """
    trees = sorted((store_dir() / "trees").glob("[!.]*"))
    names = {part for path in needed for part in path.parts}
    kept = [tree for tree in trees if tree.name in names or tree.stat().st_mtime >= since]
    linked = {link.readlink().name for tree in kept for link in tree.rglob("*") if link.is_symlink()}
    files = sorted(path for folder in ("files", "partial") for path in (store_dir() / folder).glob("*"))
    gone = [path for path in files if path.name not in linked and path.lstat().st_mtime < since]
    return [*(tree for tree in trees if tree not in kept), *gone]


def checked(path: Path, file: RemoteFile) -> str:
    """The sha256 of a file, if size, sha256 and git blob id are what its origin announced; else nothing."""
    if path.stat().st_size != file.size:
        return ""
    if not file.sha256 and re.fullmatch(r"[0-9a-f]{40}", file.version):
        blob = hashlib.sha1(b"blob %d\0" % file.size + path.read_bytes()).hexdigest()
        return digests.sha256(path) if blob == file.version else ""
    sha256 = digests.sha256(path)
    return sha256 if sha256 == (file.sha256 or sha256) else ""


def continue_download(
    read: Callable[[int], Iterator[bytes]],
    partial: Path,
    file: RemoteFile,
    place: str,
    advance: Callable[[int], None] = lambda _: None,
) -> str:
    """Append what is missing; a connection that breaks is taken up again where it broke.

    The sha256 of the whole; nothing if it is not what was announced (see `checked`), and then it is removed.
    """
    partial.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    with partial.open("ab") as out:
        have = out.tell()
        advance(have)
        while have < file.size:
            before, problem = have, None
            try:
                for chunk in read(have):
                    out.write(chunk)
                    have += len(chunk)
                    advance(len(chunk))
            except UnreachableError as error:
                problem = error
            failures = 0 if have > before else failures + 1
            if failures == ATTEMPTS:
                raise UnreachableError(
                    f"{place}: {file.path} stopped at byte {have} of {file.size}; fetch again to go on from there"
                ) from problem
            time.sleep(PAUSE * failures)
    sha256 = checked(partial, file)
    if not sha256:
        partial.unlink()
    return sha256


@contextmanager
def lock_below(root: Path, name: str) -> Iterator[None]:
    """One process at a time, of those that share the folder `root`, does what has this name."""
    path = root / "locks" / _name(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path):
        yield


def bucket_at(uri: str | None) -> "Bucket | None":
    """A bucket, if there is one; the library that speaks to it is loaded only then."""
    if uri is None:
        return None
    from srpo.hub.s3 import Bucket

    return Bucket(uri)


def _name(source: str) -> str:
    return hashlib.sha256(source.encode()).hexdigest()
