"""Checkpoints go to the durable copy in a thread of their own while training goes on, and come back from it.

Sent are those that the local disk keeps (the last few and the best): the best first, which training ends with, then the
newest, each with the journals that belong to it before it. Older ones are removed from the copy when a newer one is
whole there. What fails is tried again after a pause that doubles up to a bound; training waits for it only at its end.
One training at a time writes to a folder's copy: a lease says which.
"""

import logging
import shutil
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

from accelerate import Accelerator
from accelerate.utils import gather_object

from srpo.checkpoint import CheckpointStore, updates_among
from srpo.config import StorageConfig
from srpo.durable.mirror import OWN_COPIES, mirror_of
from srpo.errors import ConfigError, UnreachableError
from srpo.files import atomic_folder

if TYPE_CHECKING:
    from srpo.lease.s3 import S3Held

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds between a failed attempt and the next."""
SLOWEST = 100e6
"""Bytes per second that S3 may be expected to take."""
JOURNALS = 0
"""In place of an update, which has no checkpoint before the first: the journals alone."""
LEASE_WAIT = 90.0
"""Seconds that a training waits for the lease of one before it, which runs out 30 s after that was killed."""

log = logging.getLogger(__name__)


class CheckpointCopies:
    """The durable copy of a training's folder; without `storage.remote` only the local disk is kept in order."""

    def __init__(
        self, storage: StorageConfig, output_dir: Path, store: CheckpointStore, accelerator: Accelerator
    ) -> None:
        self.storage, self.output_dir, self.store, self.accelerator = storage, output_dir, store, accelerator
        self.mirror = mirror_of(storage)
        self.writes = storage.remote is not None and accelerator.is_main_process
        self.best: int | None = None
        self.newest = 0
        """Update of the checkpoint that training goes on from; 0: there is none."""
        self.there: set[int] = set()
        """Updates whose copy is whole."""
        self.failures, self.problem = 0, ""
        """Attempts that failed so far, and why the last one did, if it did."""
        self.held: S3Held | None = None
        self._sending: int | None = None
        self._last: set[int] = set()
        """What is sent once more after all checkpoints."""
        self._longest_pause = LONGEST_PAUSE
        self._closed = False
        self._changed = threading.Condition()
        self._resources = ExitStack()

    def __enter__(self) -> Self:
        """Bring what another node has left; UnreachableError while another training writes to the copy."""
        with ExitStack() as opened:
            if self.storage.remote and self.writes:
                from srpo.lease.s3 import s3_lease

                name = self.mirror.name(self.output_dir / "training")
                self.held = opened.enter_context(s3_lease(self.storage.remote, name, LEASE_WAIT))
            self.accelerator.wait_for_everyone()  # until then the training before may add and remove checkpoints
            self.newest = self._agreed()
            with self.accelerator.main_process_first():  # nodes may share a disk
                if self.accelerator.is_local_main_process:
                    self._restore()
            self.accelerator.wait_for_everyone()
            self._resources = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._resources.close()

    def start(self, best: int | None) -> None:
        """Begin to send what is kept (main process); from now on the best update is known, which stays in the copy."""
        self.best = best
        self.store.prune(best)
        if self.writes:
            threading.Thread(target=self._work, daemon=True).start()

    def saved(self, best: int | None) -> None:
        """A checkpoint was written (main process): drop what is no longer kept, have the rest sent, without waiting."""
        with self._changed:
            self.best = best
            self.store.prune(best, spared=self._sending)
            self._changed.notify_all()
        if self.held and self.held.lost:
            self.held.confirm()

    def bring(self, update: int) -> None:
        """A checkpoint from the copy, if it is not here (one process of a node)."""
        folder = self.store.path(update)
        if self.storage.remote is not None and not folder.exists():
            with atomic_folder(folder) as staging:
                if not self.mirror.fetch(folder, into=staging):
                    raise ConfigError(f"{folder} is neither here nor in {self.storage.remote}; start a new run")

    def finish(self, seconds: float) -> str:
        """Wait until all that is kept is sent, at most so long beyond what its bytes take over a slow line."""
        with self._changed:
            left = [self.store.path(update) for update in set(self.store.updates()) - self.there]
        size = sum(path.stat().st_size for folder in left for path in folder.iterdir())
        return self.wait(seconds + size / SLOWEST)

    def wait(self, seconds: float) -> str:
        """Until all that is kept is sent, and the journals as they are now, at most so long.

        What became of the checkpoints, empty where there are none; or an UnreachableError that says it.
        """
        if not self.writes:
            return ""
        with self._changed:
            self._longest_pause = FIRST_PAUSE
            self._last = {JOURNALS}
            self._changed.notify_all()
            whole = self._changed.wait_for(lambda: self._next() is None and self._sending is None, seconds)
            newest = max(self.there, default=None)
            if not whole:
                raise UnreachableError(
                    f"{self.storage.remote} did not take all checkpoints within {seconds:.0f} s (whole there: "
                    f"{newest or 'none'}; {self.problem or 'still sending'}); they are safe in {self.store.directory}; "
                    "run it again to go on from there"
                )
        return f"checkpoint {newest} whole in {self.storage.remote}, failed attempts: {self.failures}" if newest else ""

    def _agreed(self) -> int:
        """The newest checkpoint that every node has or can bring. Raises ConfigError where nodes share nothing."""
        if self.storage.remote is not None:
            self.there = set(updates_among(self.mirror.folders(self.store.directory)))
        here: list[set[int]] = gather_object([set(self.store.updates()) | self.there])
        if self.storage.remote is None and any(each != here[0] for each in here):
            raise ConfigError(
                f"not all nodes see the checkpoints in {self.store.directory}; put the folder on storage that they "
                "share, or set storage.remote"
            )
        return max(set.intersection(*here), default=0)

    def _restore(self) -> None:
        """Bring the checkpoint that training goes on from to this disk, if it is not here; for rank 0 journals too."""
        self.store.remove_partial()
        for later in (update for update in self.store.updates() if update > self.newest):
            shutil.rmtree(self.store.path(later))  # of this node alone; they come again
        if self.newest and not self.store.path(self.newest).exists():
            if self.writes:
                self.mirror.fetch(self.output_dir)
            self.bring(self.newest)

    def _next(self) -> int | None:
        """What the copy lacks: the best checkpoint, then the newest; after all of them the journals, if asked for."""
        left = {*self.store.updates(), *self._last} - self.there
        return self.best if self.best in left else max(left, default=None)

    def _work(self) -> None:
        """The thread."""
        pause = FIRST_PAUSE
        while (update := self._take()) is not None:
            try:
                self._send(update)
                pause, problem = FIRST_PAUSE, ""
            except Exception as error:  # a thread that ended would send nothing any more
                problem = str(error) or type(error).__name__
                log.warning("checkpoint %d is not in the copy yet: %s; next attempt in %.0f s", update, problem, pause)
            with self._changed:
                self._sending, self.problem = None, problem
                self.failures += bool(problem)
                self.there |= set() if problem else {update}
                self._changed.notify_all()
            if problem:
                self._pause(pause)
                pause = min(2 * pause, self._longest_pause)

    def _take(self) -> int | None:
        """Wait for something to send, and keep it from being pruned meanwhile; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._next() is not None)
            self._sending = None if self._closed else self._next()
            return self._sending

    def _pause(self, seconds: float) -> None:
        with self._changed:  # news of another checkpoint is no reason to try sooner
            self._changed.wait_for(lambda: self._closed or seconds > self._longest_pause, seconds)

    def _send(self, update: int) -> None:
        """The journals, the checkpoint, then away with what it makes superfluous."""
        assert self.held
        self.mirror.push(self.output_dir, OWN_COPIES, confirm=self.held.confirm)
        if update == JOURNALS:
            return
        self.mirror.push(self.store.path(update), confirm=self.held.confirm)
        begun = set(updates_among(self.mirror.begun(self.store.directory)))
        with self._changed:
            surplus = set(self.store.surplus(sorted(self.there | {update}), self.best))
            surplus |= begun - self.there - set(self.store.updates()) - {update}  # half sent, and no longer here
        for old in sorted(surplus):
            self.mirror.remove(self.store.path(old))
            self.there.discard(old)
