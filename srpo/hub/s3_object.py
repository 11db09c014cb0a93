"""A small JSON object in a bucket that is changed only by conditional writes (IfNoneMatch, IfMatch)."""

import json
from typing import Any

from botocore.exceptions import ClientError

from srpo.hub.s3 import Bucket

REFUSED = {"412", "PreconditionFailed", "409", "ConditionalRequestConflict", "404", "NoSuchKey"}


class ConditionalObject:
    """One object, and the conditions under which it changes."""

    def __init__(self, store: Bucket, key: str) -> None:
        self.store = store
        self.key = key
        self.address = f"s3://{store.bucket}/{key}"

    def read(self) -> tuple[str, dict[str, Any]] | None:
        """(ETag, content); None if there is no object."""
        with self.store.explained():
            try:
                found = self.store.client.get_object(Bucket=self.store.bucket, Key=self.key)
            except self.store.client.exceptions.NoSuchKey:
                return None
            return found["ETag"], json.loads(found["Body"].read())

    def write(self, content: dict[str, Any], etag: str | None) -> str | None:
        """Replace the object that has this ETag, or make it (None); the new ETag, or None if that was refused."""
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        body = json.dumps(content).encode()
        with self.store.explained():
            try:
                answer = self.store.client.put_object(Bucket=self.store.bucket, Key=self.key, Body=body, **condition)
                return str(answer["ETag"])
            except ClientError as error:
                if error.response["Error"]["Code"] not in REFUSED:
                    raise
        there = self.read()  # an answer that got lost makes boto3 write again, and be refused by its own first write
        return there[0] if there and there[1] == content else None
