"""A lease as one small object, changed only by conditional writes (IfNoneMatch, IfMatch).

The holder writes its name, then writes again a few times per `TTL`. Who waits and sees the same ETag for a whole `TTL`
knows that the holder is dead, and overwrites exactly that ETag: nobody's clock is compared with another's. A lease that
is let go stays as an object without a holder, because conditional deletes are less common than conditional writes.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from srpo.errors import ConfigError, UnreachableError
from srpo.hub.s3 import Bucket
from srpo.hub.s3_object import ConditionalObject

TTL = 30.0
"""Seconds without a sign of life after which a holder counts as dead."""
RENEWALS = 3
"""Signs of life per `TTL`."""
PAUSE = 0.5
"""Seconds between two looks at a lease that another holds."""


class S3Held:
    """A lease that its holder renews, in a thread of its own and whenever it asks."""

    def __init__(self, lease: ConditionalObject, etag: str, content: dict[str, Any]) -> None:
        self.lease, self.etag, self.content = lease, etag, content
        self.lost = False
        self.guard, self.ended = threading.Lock(), threading.Event()
        self.thread = threading.Thread(target=self._keep, daemon=True)

    def confirm(self) -> None:
        """Renew now: nobody takes over for another `TTL`."""
        self._renew({})
        if self.lost:
            raise UnreachableError(f"{self.lease.address} was taken over while this process stood still; try again")

    def release(self) -> None:
        """Leave the object to whoever comes next; where S3 does not answer it runs out by itself."""
        self.ended.set()
        self.thread.join(TTL / RENEWALS)
        if self.thread.is_alive():
            return
        with suppress(UnreachableError):  # the work is done
            self._renew({"holder": None})

    def _keep(self) -> None:
        while not self.ended.wait(TTL / RENEWALS):
            try:
                self._renew({})
            except (UnreachableError, ConfigError):
                continue  # the next one may arrive; `confirm` will tell

    def _renew(self, changes: dict[str, Any]) -> None:
        with self.guard:
            if self.lost:
                return
            content = self.content | changes | {"renewals": self.content["renewals"] + 1}
            etag = self.lease.write(content, self.etag)
            if etag is None:
                self.lost = True
            else:
                self.etag, self.content = etag, content


@contextmanager
def s3_lease(uri: str, name: str, wait: float) -> Iterator[S3Held]:
    """The lease `name` under a prefix. ConfigError for a store that ignores conditions, and so can lock nothing."""
    store = Bucket(uri)
    lease = ConditionalObject(store, store.key(f"{name}.lease"))
    holder = f"{socket.gethostname()} process {os.getpid()} {uuid.uuid4().hex}"
    held = _take(lease, {"holder": holder, "renewals": 0}, wait)
    held.thread.start()
    try:
        yield held
    finally:
        held.release()


def _take(lease: ConditionalObject, content: dict[str, Any], wait: float) -> S3Held:
    """Wait until the object is not there, has no holder, or has not changed for `TTL`."""
    started = since = time.monotonic()
    seen: str | None = None
    while True:
        etag, found = lease.read() or (None, {"holder": None})
        now = time.monotonic()
        if etag != seen:
            seen, since = etag, now
        if not found["holder"] or now - since >= TTL:
            taken = lease.write(content, etag)
            if taken:
                _check_conditions(lease, content)
                return S3Held(lease, taken, content)
        if now - started > wait:
            raise UnreachableError(f"{lease.address} has been held for {wait:g} s, now by {found['holder']}; try again")
        time.sleep(PAUSE)


def _check_conditions(lease: ConditionalObject, content: dict[str, Any]) -> None:
    """Two writes that a store must refuse: of an object that is there, and of an ETag that it never had."""
    for etag in (None, '"00000000000000000000000000000000"'):
        if lease.write(content | {"probe": True}, etag):
            raise ConfigError(
                f"{lease.store.uri} ignores conditional writes (IfNoneMatch, IfMatch), so it cannot keep a lease; "
                "set registry.lease to another bucket, or to postgresql://user@host/database"
            )
