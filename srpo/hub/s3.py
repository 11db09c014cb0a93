"""`s3://bucket/prefix`, or one object: read in ranges that are fetched ahead, written by boto3's transfer manager.

Credentials, region and endpoint are boto3's own (environment, profile, role).
"""

import base64
import re
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
from boto3.exceptions import Boto3Error, S3UploadFailedError
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError

from srpo.errors import ConfigError, UnreachableError
from srpo.hub.listing import INDEX, Listing, RemoteFile, needed, safe_path

SCHEME = "s3://"
PART = 16 * 2**20
"""Bytes of one range; a resumed file loses less than `AHEAD` of them."""
AHEAD = 4
"""Ranges of a file on their way at once."""
TRANSIENT = re.compile("Throttl|SlowDown|Timeout|InternalError|Unavailable|OperationAborted|Conflict")
"""In the codes of what may pass, of S3 and of those who speak its language; or their status says so."""
TRANSIENT_STATUS = {408, 409, 412, 429, *range(500, 600)}


class Bucket:
    """One bucket, and the sentences that its refusals become."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.bucket, _, self.prefix = uri.removeprefix(SCHEME).rstrip("/").partition("/")
        if not self.bucket:
            raise ConfigError(f"{uri!r} names no bucket; write s3://bucket/prefix")
        settings = Config(retries={"mode": "standard", "max_attempts": 5}, max_pool_connections=64)
        try:  # a session of its own, because clients are made in several threads
            self.client: Any = boto3.Session().client("s3", config=settings)
        except (ValueError, BotoCoreError) as error:
            raise ConfigError(f"{uri}: the AWS settings of this machine cannot be used ({error})") from None

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Refusals as ConfigError, what may pass as UnreachableError; no keys, no addresses."""
        try:
            yield
        except (NoCredentialsError, PartialCredentialsError):
            raise ConfigError(f"{self.uri}: no AWS credentials; set a profile, a role or the AWS_ variables") from None
        except ClientError as error:
            raise self._refusal(error) from None
        except (BotoCoreError, Boto3Error, S3UploadFailedError) as error:
            raise UnreachableError(f"{self.uri} cannot be reached now ({type(error).__name__}); try again") from None

    def _refusal(self, error: ClientError) -> Exception:
        code = error.response["Error"]["Code"]
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code in {"412", "PreconditionFailed"}:
            return UnreachableError(f"{self.uri} changed while it was being read; try again")
        if status in TRANSIENT_STATUS or TRANSIENT.search(code):
            return UnreachableError(f"{self.uri} cannot be used now ({code}); try again later")
        return ConfigError(f"{self.uri} cannot be used ({code}); check the bucket's name and your rights to it")

    def key(self, *names: str) -> str:
        """Names, of which empty ones do not count, as a key below the prefix."""
        return "/".join(name for name in (self.prefix, *names) if name)

    def keys(self, prefix: str) -> list[str]:
        """All keys that begin so."""
        return [entry["Key"] for entry in self._listed("Contents", Prefix=prefix)]

    def folders(self, key: str) -> list[str]:
        """Names right below a key that have something below them, sorted."""
        folders = self._listed("CommonPrefixes", Prefix=f"{key}/", Delimiter="/")
        return sorted(entry["Prefix"].removeprefix(f"{key}/").rstrip("/") for entry in folders)

    def _listed(self, kind: str, **query: str) -> list[dict[str, Any]]:
        with self.explained():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, **query)
            return [entry for page in pages for entry in page.get(kind, [])]

    def get(self, key: str) -> bytes | None:
        """A small object; None if there is none."""
        with self.explained():
            try:
                return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            except self.client.exceptions.NoSuchKey:
                return None

    def put(self, key: str, content: bytes) -> None:
        """Write a small object, whole or not at all."""
        with self.explained():
            self.client.put_object(Bucket=self.bucket, Key=key, Body=content, ChecksumAlgorithm="SHA256")

    def head(self, key: str) -> dict[str, Any] | None:
        """Size, ETag and checksum of an object; None if there is none."""
        with self.explained():
            try:
                return self.client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
            except ClientError as error:
                if error.response["Error"]["Code"] in {"404", "NoSuchKey", "NotFound"}:
                    return None
                raise

    def delete(self, key: str) -> None:
        """Remove an object, if it is there."""
        with self.explained():
            self.client.delete_object(Bucket=self.bucket, Key=key)

    def upload(self, path: Path, key: str) -> None:
        """A large file in parallel parts, each checked on arrival; the object appears when it is whole."""
        settings = TransferConfig(multipart_chunksize=PART, max_concurrency=AHEAD)
        with self.explained():
            self.client.upload_file(str(path), self.bucket, key, {"ChecksumAlgorithm": "SHA256"}, Config=settings)

    def copy(self, key: str, target: str) -> None:
        """An object under another key, within the bucket, in parallel parts where it is large."""
        settings = TransferConfig(max_concurrency=AHEAD)
        with self.explained():
            source = {"Bucket": self.bucket, "Key": key}
            self.client.copy(source, self.bucket, target, {"ChecksumAlgorithm": "SHA256"}, Config=settings)

    def read(self, key: str, size: int, etag: str, start: int) -> Iterator[bytes]:
        """An object from byte `start` on, in order, with some ranges on their way ahead."""

        def part(first: int) -> bytes:
            span = f"bytes={first}-{min(first + PART, size) - 1}"
            match = {"IfMatch": etag} if etag else {}
            return self.client.get_object(Bucket=self.bucket, Key=key, Range=span, **match)["Body"].read()

        pending: deque[Future[bytes]] = deque()
        with self.explained(), ThreadPoolExecutor(AHEAD) as pool:
            for first in range(start, size, PART):
                pending.append(pool.submit(part, first))
                if len(pending) == AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()


class S3Origin:
    """All objects under a prefix, or one object."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.store = Bucket(source)
        self.name = SCHEME + self.store.bucket
        self.prefix = self.store.prefix
        self.root = f"{self.prefix}/" if self.prefix else ""  # what comes before a file's path in its key

    def listing(self) -> Listing:
        """The needed objects, with their checksums where the bucket has them."""
        objects = self._objects()
        single = self.prefix in objects
        if single:
            self.root = self.prefix[: self.prefix.rfind("/") + 1]
        paths = {key.removeprefix(self.root): key for key in ([self.prefix] if single else objects)}
        if not paths:
            raise ConfigError(f"{self.source} holds nothing; give the prefix of a folder, or the key of one object")
        wanted = set(paths) if single else needed(paths, lambda: self.store.get(paths[INDEX]) or b"{}")
        files = tuple(self._file(path, paths[path]) for path in sorted(wanted))
        return Listing(source=self.source, origin=self.name, single=single, files=files)

    def read(self, file: RemoteFile, start: int) -> Iterator[bytes]:
        """The content from byte `start` on; refused if the object has changed since it was listed."""
        return self.store.read(self.root + file.path, file.size, file.version, start)

    def at_hand(self, file: RemoteFile) -> None:
        """Nothing else keeps copies of objects."""

    def _objects(self) -> set[str]:
        folder = f"{self.prefix}/" if self.prefix else ""
        keys = self.store.keys(self.prefix)
        return {key for key in keys if not key.endswith("/") and (key == self.prefix or key.startswith(folder))}

    def _file(self, path: str, key: str) -> RemoteFile:
        facts = self.store.head(key)
        if facts is None:
            raise UnreachableError(f"{self.source}: {path} vanished while it was being listed; try again")
        return RemoteFile(
            path=safe_path(path, self.source), size=facts["ContentLength"], version=facts["ETag"], sha256=_sha256(facts)
        )


def _sha256(facts: dict[str, Any]) -> str:
    """Checksum of a whole object as hexadecimal digits; one made of its parts' checksums says nothing of the whole."""
    checksum = facts.get("ChecksumSHA256", "")
    return "" if "-" in checksum else base64.b64decode(checksum).hex()
