"""Kubernetes objects in memory: as the API keeps them, with names, versions, owners and selectors."""

import copy
import secrets
import uuid
from datetime import UTC, datetime
from threading import RLock
from typing import Any, NamedTuple

Manifest = dict[str, Any]


class Key(NamedTuple):
    """Where an object is."""

    plural: str
    namespace: str
    name: str = ""


class RefusalError(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.manifest = {
            "apiVersion": "v1",
            "kind": "Status",
            "status": "Failure",
            "code": status,
            "reason": reason,
            "message": message,
        }


class Objects:
    """All objects; every answer is a copy."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._kept: dict[Key, Manifest] = {}
        self._version = 0

    def create(self, key: Key, manifest: Manifest) -> Manifest:
        """Keep a new object under its name or one made from `generateName`."""
        metadata = dict(manifest.get("metadata", {}))
        name = metadata.get("name") or f"{metadata['generateName']}{secrets.token_hex(3)}"
        key = key._replace(name=name)
        added = {"name": name, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
        with self._lock:
            if key in self._kept:
                raise RefusalError(409, "AlreadyExists", f'{key.plural} "{name}" already exists')
            own = added | ({"namespace": key.namespace} if key.namespace else {})
            return self.put(key, {"status": {}, **manifest, "metadata": metadata | own}, new=True)

    def put(self, key: Key, manifest: Manifest, new: bool = False) -> Manifest:
        """Keep a state of an object that is there."""
        with self._lock:
            if not new:
                self.get(key)
            self._version += 1
            kept = copy.deepcopy(manifest)
            kept["metadata"]["resourceVersion"] = str(self._version)
            self._kept[key] = kept
            return copy.deepcopy(kept)

    def get(self, key: Key) -> Manifest:
        """One object. Raises RefusalError."""
        with self._lock:
            if key not in self._kept:
                raise RefusalError(404, "NotFound", f'{key.plural} "{key.name}" not found')
            return copy.deepcopy(self._kept[key])

    def delete(self, key: Key) -> Manifest:
        """Forget an object. Raises RefusalError."""
        with self._lock:
            gone = self.get(key)
            del self._kept[key]
            return gone

    def merged(self, key: Key, changes: Manifest) -> Manifest:
        """An object with changes put into it: what is null goes, lists are replaced."""
        return _merge(self.get(key), changes)

    def update(self, key: Key, changes: Manifest) -> None:
        """Merge changes into an object; one that is gone stays gone."""
        with self._lock:
            if key in self._kept:
                self.put(key, self.merged(key, changes))

    def find(self, key: Key, labels: str = "", fields: str = "") -> list[Manifest]:
        """Objects of a kind and namespace that selectors of the form `a=b,c=d` match, oldest first."""
        with self._lock:
            kept = [
                copy.deepcopy(manifest)
                for place, manifest in self._kept.items()
                if place.plural == key.plural and key.namespace in ("", place.namespace)
            ]
        return [found for found in kept if _selected(found, labels, fields)]

    def owned_by(self, uid: str) -> list[Key]:
        """What names an object as its owner."""
        with self._lock:
            return [
                key
                for key, manifest in self._kept.items()
                if uid in {owner["uid"] for owner in manifest["metadata"].get("ownerReferences") or ()}
            ]


def now() -> str:
    """As Kubernetes writes times."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _merge(value: Any, changes: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(changes, dict):
        return copy.deepcopy(changes)
    merged = value | {name: _merge(value.get(name), change) for name, change in changes.items()}
    return {name: inner for name, inner in merged.items() if changes.get(name, ...) is not None}


def _selected(manifest: Manifest, labels: str, fields: str) -> bool:
    own = manifest["metadata"].get("labels") or {}
    return all(own.get(name) == value for name, value in _terms(labels)) and all(
        _field(manifest, name) == value for name, value in _terms(fields)
    )


def _terms(selector: str) -> list[tuple[str, str]]:
    return [
        (name.rstrip("="), value) for name, _, value in (term.rpartition("=") for term in selector.split(",") if term)
    ]


def _field(manifest: Manifest, path: str) -> Any:
    for part in path.split("."):
        manifest = manifest.get(part, {})
    return manifest
