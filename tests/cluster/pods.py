"""The node of the loopback cluster: a pod's container is a process with its own host name, mounts and environment."""

import base64
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from tests.cluster.store import ApiError, Object, Store, now

UNSHARE = ["unshare", "--mount", "--uts", "--pid", "--mount-proc", "--fork", "--kill-child"]
ACCOUNT = "run/secrets/kubernetes.io/serviceaccount"
"""Where a pod finds the token and certificate of its cluster; /var/run is /run."""
NAMED = 8
"""Pods of one Job that have a name."""
WORKING = "/app"
"""Where ZenML's entry point changes to, always."""


def isolation() -> list[str]:
    """The command that gives a process its own mounts and host name; empty where this machine allows none."""
    for command in (UNSHARE, [UNSHARE[0], "--user", "--map-root-user", *UNSHARE[1:]]):
        try:
            probe = ["sh", "-c", f"mkdir -p {WORKING} && mount -t tmpfs none /run"]
            mounted = subprocess.run([*command, *probe], capture_output=True, check=False)
        except FileNotFoundError:
            return []
        if mounted.returncode == 0:
            return command
    return []


class Node:
    """Runs pods. Claims are folders here, bound to where a pod mounts them; /app is a folder of the pod's own."""

    def __init__(self, store: Store, folder: Path, image: Mapping[str, str], url: str) -> None:
        self.store, self.folder, self.image, self.url = store, folder, image, url
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, pod: Object) -> int:
        """Run a pod's container to its end and keep its status; its exit code, 128 + N after signal N."""
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        (container,) = pod["spec"]["containers"]
        folder = self.folder / "pods" / name
        folder.mkdir(parents=True)
        self._status(pod, {"phase": "Pending"})
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                [*isolation(), "sh", "-c", self._start_script(pod, container)],
                env=self._environment(namespace, container),
                cwd=folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes[name] = process
        self._status(
            pod, {"phase": "Running", "containerStatuses": [_container(container, {"running": {"startedAt": now()}})]}
        )
        code = process.wait()
        code = 128 - code if code < 0 else code
        ended = {"terminated": {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "finishedAt": now()}}
        phase = "Failed" if code else "Succeeded"
        self._status(pod, {"phase": phase, "containerStatuses": [_container(container, ended)]})
        return code

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a pod's container; SIGKILL ends all that it started, because its first process is gone."""
        process = self.processes.get(name)  # none yet, or never, where its Job went first
        if process and process.poll() is None:
            os.killpg(process.pid, number)

    def log(self, name: str) -> str:
        """What a pod wrote so far."""
        path = self.folder / "pods" / name / "log.txt"
        return path.read_text(errors="replace") if path.exists() else ""

    def claim(self, name: str) -> Path:
        """The folder behind a PersistentVolumeClaim."""
        return self.folder / "claims" / name

    def _start_script(self, pod: Object, container: Object) -> str:
        account = self._account()
        lines = [
            "set -e",
            f"hostname {shlex.quote(pod['spec'].get('hostname', pod['metadata']['name']))}",
            f"mount --bind {shlex.quote(str(self._names(pod)))} /etc/hosts",
            f"mount --bind . {WORKING}",
            "mount -t tmpfs none /run",
            f"mkdir -p /{ACCOUNT}",
            f"cp {shlex.quote(str(account))}/* /{ACCOUNT}/",
        ]
        claims = {
            it["name"]: it["persistentVolumeClaim"]["claimName"]
            for it in pod["spec"].get("volumes", [])
            if "persistentVolumeClaim" in it
        }
        for mount in container.get("volumeMounts", []):
            if mount["name"] in claims:
                source, target = self.claim(claims[mount["name"]]), Path(mount["mountPath"])
                source.mkdir(parents=True, exist_ok=True)
                target.mkdir(parents=True, exist_ok=True)
                lines.append(f"mount --bind {shlex.quote(str(source))} {shlex.quote(str(target))}")
        command = [*container.get("command", []), *container.get("args", [])]
        return "\n".join([*lines, f"exec {shlex.join(command)}"])

    def _names(self, pod: Object) -> Path:
        """What DNS would say: the names that a headless Service gives to the pods of a Job, which are all here."""
        spec, job = pod["spec"], pod["spec"].get("subdomain", "")
        names = [spec.get("hostname", pod["metadata"]["name"]), "localhost"]
        names += [f"{job}-{index}.{job}.{pod['metadata']['namespace']}.svc" for index in range(NAMED if job else 0)]
        (path := self.folder / "pods" / pod["metadata"]["name"] / "hosts").write_text(f"127.0.0.1 {' '.join(names)}\n")
        return path

    def _account(self) -> Path:
        folder = self.folder / "account"
        folder.mkdir(exist_ok=True)
        (folder / "token").write_text("loopback")
        (folder / "ca.crt").write_bytes((self.folder / "ca.crt").read_bytes())
        return folder

    def _environment(self, namespace: str, container: Object) -> dict[str, str]:
        address = urlsplit(self.url)
        own = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.folder),
            "KUBERNETES_SERVICE_HOST": str(address.hostname),
            "KUBERNETES_SERVICE_PORT": str(address.port),
        }
        return own | dict(self.image) | {it["name"]: self._value(namespace, it) for it in container.get("env", [])}

    def _value(self, namespace: str, entry: Object) -> str:
        if "valueFrom" not in entry:
            return str(entry.get("value", ""))
        reference = entry["valueFrom"]["secretKeyRef"]
        secret = self.store.read("secrets", namespace, reference["name"])
        if reference["key"] in secret.get("stringData", {}):
            return str(secret["stringData"][reference["key"]])
        return base64.b64decode(secret["data"][reference["key"]]).decode()

    def _status(self, pod: Object, status: Object) -> None:
        meta = pod["metadata"]
        try:
            self.store.patch("pods", meta["namespace"], meta["name"], {"status": status})
        except ApiError:  # deleted meanwhile
            self.kill(meta["name"]) if meta["name"] in self.processes else None


def _container(container: Object, state: Object) -> Object:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": "running" in state,
        "restartCount": 0,
        "state": state,
    }
