"""Sources -> local files whose content is known.

    builtin:shapes                          the embedded world
    a path                                  used in place, never copied
    hf://owner/name[@revision][/file]       the Hugging Face Hub, pinned to a commit
    s3://bucket/prefix                      a bucket: a folder, or one object

Remote sources are fetched once into the store (`srpo.hub.store`) and found again there by content.
"""

import re
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Literal

from srpo.artifacts import FileEntry, Snapshot
from srpo.errors import ConfigError, UnreachableError
from srpo.hub import digests
from srpo.hub.listing import INDEX, Listing, OfflineError, Origin, RemoteFile, holds_weights, licence_text, needed
from srpo.hub.progress import FetchProgress
from srpo.hub.store import Store
from srpo.shapes import WEIGHTS_DIR

Part = Literal["model", "reward", "score", "images", "prompts", "words"]
BUILTIN: dict[str, dict[Part, Path]] = {
    "builtin:shapes": {
        "model": WEIGHTS_DIR / "flux",
        "reward": WEIGHTS_DIR / "reward",
        "score": WEIGHTS_DIR / "reward",
    },
    "builtin:shapes-biased": {"reward": WEIGHTS_DIR / "biased", "score": WEIGHTS_DIR / "biased"},
}
FILES_AT_ONCE = 4
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
"""What may name a repository of the Hugging Face hub."""


def is_remote(source: str) -> bool:
    """Whether a source has to be fetched."""
    return "://" in source


def resolve(source: str, part: Part) -> Path:
    """The local place of a source; ConfigError where there is none. A remote source must have been fetched."""
    known = sorted(name for name, parts in BUILTIN.items() if part in parts)
    if source.startswith("builtin:"):
        if part not in BUILTIN.get(source, {}):
            raise ConfigError(
                f"{part}: no embedded world {source!r}; {f'choose from {known}' if known else 'give a path'}"
            )
        return BUILTIN[source][part]
    if is_remote(source):
        _origin(source, part)
        if (listing := fetched(source)) is None:
            raise ConfigError(
                f"{part}: {source} is not in the store yet; fetch it with `run --config FILE --until download`, "
                "FILE being the run file that names it"
            )
        return Store().tree(listing).path
    path = Path(source).expanduser().resolve()
    if not path.exists():
        others = [f"hf://{source} for that repository of the Hugging Face hub"] if REPOSITORY.fullmatch(source) else []
        raise ConfigError(f"{part}: nothing at {path}; give {', or '.join(['a path that exists', *others, *known])}")
    return path


def survey(source: str, part: Part) -> Listing:
    """What a remote source holds and whether it may be read, without fetching it.

    ConfigError where it cannot be had. Where it cannot, or must not, be reached, what was fetched of it before answers.
    """
    try:
        return _origin(source, part).listing()
    except (UnreachableError, OfflineError):
        if listing := fetched(source):
            return listing
        raise


def fetched(source: str) -> Listing | None:
    """The listing of a remote source whose files are all in the local store, whole in size."""
    store = Store()
    listing = store.listing_of(source)
    return listing if listing and not missing(listing) else None


def local_file(source: str, part: Part) -> Path:
    """The place of a small file that is read before any step runs: a remote one is looked up, and fetched, each time.

    While its origin cannot be reached, what was fetched of it before answers for it.
    """
    return fetch(source, part).path if is_remote(source) else Path(source).expanduser()


def missing(listing: Listing) -> int:
    """Bytes of a listing that are not in the local store."""
    store = Store()
    return sum(file.size for file in listing.files if not store.has(listing.origin, file))


def fetch(source: str, part: Part) -> Snapshot:
    """Make a source local and note its content (name, size, sha256 of every file)."""
    if not is_remote(source):
        return snapshot(resolve(source, part), source)
    origin, store = _origin(source, part), Store()
    with store.lock(source):
        listing = _listing(origin, store.listing_of(source))
        listing = listing.model_copy(update={"files": _obtain_all(store, origin, listing)})
        made = store.tree(listing)
        listing = listing.model_copy(update={"licence": listing.licence or licence_text(made.path)})
        store.keep(listing)
    return made.model_copy(update={"licence": listing.licence})


def without_weights(source: str, part: Part) -> Path:
    """The local place of a source, with at least all its files that hold no weights: what a plan needs.

    Of one that is not in the store yet only those are fetched; it does not count as fetched for that. Where it has
    none, as a source of one file, nothing is there.
    """
    if not is_remote(source) or fetched(source):
        return resolve(source, part)
    origin, store = _origin(source, part), Store()
    listing = origin.listing()
    small = () if listing.single else tuple(file for file in listing.files if not holds_weights(file.path))
    listing = listing.model_copy(update={"files": small, "single": False})
    return store.tree(listing.model_copy(update={"files": _obtain_all(store, origin, listing)})).path


def at_hand(recorded: Snapshot) -> Snapshot:
    """A fetched snapshot on this machine: where it was recorded, or brought from the store that nodes share."""
    if not is_remote(recorded.source) or all((_root(recorded) / file.path).is_file() for file in recorded.files):
        return recorded
    store = Store()
    if absent := [file.path for file in recorded.files if not store.take(file)]:
        raise ConfigError(
            f"{recorded.uri} lacks {absent[0]}, and the store does not have it; let SRPO_STORE name the store that "
            f"{recorded.source} was fetched into, or fetch it again"
        )
    return store.link(recorded, _alone(recorded))


def snapshot(path: Path, source: str) -> Snapshot:
    """The content of a file, or of the files of a folder that are read from it, as it is now."""
    root = path.parent if path.is_file() else path
    entries = (
        FileEntry(path=name, size=(root / name).stat().st_size, sha256=digests.sha256(root / name))
        for name in local_files(path)
    )
    return Snapshot(source=source, uri=str(path), files=tuple(entries), licence=licence_text(path))


def local_files(path: Path) -> list[str]:
    """Names of the files that are read from a folder, none of them hidden, or of the one file."""
    if path.is_file():
        return [path.name]
    names = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    return sorted(needed((name for name in names if not _hidden(name)), (path / INDEX).read_bytes))


def _hidden(name: str) -> bool:
    """What other programs keep beside the files of a folder, such as `.git/index`, and change as they please."""
    return any(part.startswith(".") for part in name.split("/"))


def verify(recorded: Snapshot) -> None:
    """ConfigError if the files are no longer those that were recorded; hidden ones of a folder do not count."""
    root, found = _root(recorded), set(local_files(recorded.path))
    then = {(file.path, file.sha256) for file in recorded.files if file.path in found or not _hidden(file.path)}
    names = found | {name for name, _ in then}
    now = {(name, digests.sha256(root / name)) for name in names if (root / name).is_file()}
    if changed := sorted(now ^ then):
        raise ConfigError(f"{recorded.uri} has changed since it was recorded: {changed[0][0]}; start a new run")


def _root(recorded: Snapshot) -> Path:
    """The folder that the paths of a snapshot's files are relative to."""
    return recorded.path.parent if _alone(recorded) else recorded.path


def _alone(recorded: Snapshot) -> str:
    """The name of a snapshot's file, if it is of one file and not of a folder."""
    first = recorded.files[0].path if len(recorded.files) == 1 else ""
    return first if recorded.path.name == first else ""


def _origin(source: str, part: Part) -> Origin:
    """Where a remote source comes from; the libraries that speak to it are loaded only when one is asked for."""
    if source.startswith("hf://"):
        from srpo.hub.hf import HfOrigin

        return HfOrigin(source)
    if source.startswith("s3://"):
        from srpo.hub.s3 import S3Origin

        return S3Origin(source)
    raise ConfigError(
        f"{part}: {source!r} is not a path and begins with none of hf://, s3://; "
        "fetch it first, then give the path of the folder or file"
    )


def _listing(origin: Origin, earlier: Listing | None) -> Listing:
    """What the origin holds now; while it cannot be reached, what was fetched of it before."""
    try:
        return origin.listing()
    except (UnreachableError, OfflineError):
        if earlier is None:
            raise
        return earlier


def _obtain_all(store: Store, origin: Origin, listing: Listing) -> tuple[RemoteFile, ...]:
    """All files, several at once; the first failure, or Ctrl-C, stops the others where they are."""
    with FetchProgress(listing.source, listing.size) as progress, ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        tasks = [pool.submit(store.obtain, origin, listing.origin, file, progress) for file in listing.files]
        try:
            for task in as_completed(tasks):
                task.result()
        except BaseException:
            progress.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return tuple(task.result() for task in tasks)
