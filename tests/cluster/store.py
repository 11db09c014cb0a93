"""What a Kubernetes API server keeps: objects by kind, namespace and name, each checked against its schema."""

import copy
import uuid
from datetime import UTC, datetime
from threading import RLock
from typing import Any

import kubernetes_validate

Object = dict[str, Any]
SCHEMA = "1.33"
KINDS = {
    "nodes": ("v1", "Node"),
    "namespaces": ("v1", "Namespace"),
    "pods": ("v1", "Pod"),
    "secrets": ("v1", "Secret"),
    "services": ("v1", "Service"),
    "serviceaccounts": ("v1", "ServiceAccount"),
    "jobs": ("batch/v1", "Job"),
    "cronjobs": ("batch/v1", "CronJob"),
    "rolebindings": ("rbac.authorization.k8s.io/v1", "RoleBinding"),
}


class ApiError(Exception):
    """An answer other than success: HTTP status, reason, message."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class Store:
    """Objects of one cluster; every method is safe to call from any thread and hands out copies."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._lock = RLock()
        self._version = 0

    def create(self, plural: str, namespace: str, body: Object) -> Object:
        """Add an object; 409 if there is one of this name, 422 if the schema refuses it."""
        api_version, kind = KINDS[plural]
        made = {**_without_nulls(body), "apiVersion": api_version, "kind": kind}
        meta = made.setdefault("metadata", {})
        if "name" not in meta:
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        _check(made)
        key = (plural, namespace, meta["name"])
        with self._lock:
            if key in self._objects:
                raise ApiError(409, "AlreadyExists", f"{plural} {meta['name']} already exists")
            meta |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()} | (
                {"namespace": namespace} if namespace else {}
            )
            made.setdefault("status", {})
            self._objects[key] = made
            return self._stamped(made)

    def read(self, plural: str, namespace: str, name: str) -> Object:
        """One object; 404 if there is none."""
        with self._lock:
            return copy.deepcopy(self._find(plural, namespace, name))

    def list(self, plural: str, namespace: str, labels: str = "", fields: str = "") -> list[Object]:
        """Objects whose labels and fields equal what the selectors say; all namespaces where `namespace` is empty."""
        with self._lock:
            found = [
                it for (kind, where, _), it in self._objects.items() if kind == plural and namespace in ("", where)
            ]
            return copy.deepcopy([it for it in found if _labelled(it, labels) and _has_fields(it, fields)])

    def patch(self, plural: str, namespace: str, name: str, change: Object) -> Object:
        """Merge a change into an object (RFC 7386; the lists that clients send here are whole)."""
        with self._lock:
            before = self._find(plural, namespace, name)
            after = merged(before, change)
            _check({key: value for key, value in after.items() if key != "status"})
            before.clear()
            before.update(after)
            return self._stamped(before)

    def delete(self, plural: str, namespace: str, name: str) -> Object:
        """Take an object out, and with it what it owns."""
        with self._lock:
            gone = self._find(plural, namespace, name)
            del self._objects[plural, namespace, name]
            for kind, where, called in list(self._objects):
                owners = self._objects.get((kind, where, called), {}).get("metadata", {}).get("ownerReferences", [])
                if any(owner["uid"] == gone["metadata"]["uid"] for owner in owners):
                    self.delete(kind, where, called)
            return copy.deepcopy(gone)

    def _find(self, plural: str, namespace: str, name: str) -> Object:
        try:
            return self._objects[plural, namespace, name]
        except KeyError:
            raise ApiError(404, "NotFound", f"{plural} {name!r} not found") from None

    def _stamped(self, value: Object) -> Object:
        self._version += 1
        value["metadata"]["resourceVersion"] = str(self._version)
        return copy.deepcopy(value)


def merged(value: Any, change: Any) -> Any:
    """A JSON merge patch (RFC 7386) applied."""
    if not isinstance(change, dict):
        return copy.deepcopy(change)
    result = dict(value) if isinstance(value, dict) else {}
    for key, inner in change.items():
        if inner is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), inner)
    return result


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _without_nulls(value: Any) -> Any:
    """A null is as good as no field, as for Kubernetes (ZenML's merged security contexts are full of them)."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _check(value: Object) -> None:
    try:
        kubernetes_validate.validate(value, SCHEMA, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise ApiError(422, "Invalid", f"{value['kind']}: {error.message}") from None


def _labelled(value: Object, selector: str) -> bool:
    labels = value["metadata"].get("labels", {})
    wanted = (part.replace("==", "=").partition("=") for part in selector.split(",") if part)
    return all(labels.get(key) == text if sign else key in labels for key, sign, text in wanted)


def _has_fields(value: Object, selector: str) -> bool:
    for part in filter(None, selector.split(",")):
        path, _, wanted = part.replace("==", "=").partition("=")
        found: Any = value
        for key in path.split("."):
            found = found.get(key, {})
        if found != wanted:
            return False
    return True
