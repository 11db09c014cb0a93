"""The loopback cluster's Job controller: completions, Indexed too, with a backoff limit and a pod failure policy."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Thread

from tests.cluster.pods import Node
from tests.cluster.store import ApiError, Object, Store, merged, now

BACKOFF = 0.5
"""Seconds before the next pod; a real cluster waits 10 s and doubles."""


class Jobs:
    """Each Job is worked on by a thread of its own; deleting the Job ends its pods."""

    def __init__(self, store: Store, node: Node) -> None:
        self.store, self.node = store, node
        self._pods: dict[str, list[str]] = {}

    def start(self, job: Object) -> None:
        """Take a new Job on."""
        Thread(target=self._work, args=(job,), daemon=True).start()
        Thread(target=self._end_with, args=(job,), daemon=True).start()

    def preempt(self, pod: Object) -> None:
        """Take a pod away as the scheduler does for one of higher priority: its condition says so, then SIGKILL."""
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
        meta = pod["metadata"]
        self.store.patch("pods", meta["namespace"], meta["name"], {"status": {"conditions": [condition]}})
        self.node.kill(meta["name"])

    def stop(self) -> None:
        """End all pods."""
        for name in list(self.node.processes):
            self.node.kill(name)

    def _work(self, job: Object) -> None:
        indexes = range(job["spec"].get("completions", 1))
        with ThreadPoolExecutor(len(indexes)) as pool:
            ends = [pool.submit(self._complete, job, index) for index in indexes]
            failed = []
            for end in as_completed(ends):
                if reason := end.result():
                    failed.append(reason)
                    self._end_pods(job)
        kinds = ["FailureTarget", "Failed"] if failed else ["SuccessCriteriaMet", "Complete"]
        conditions = [
            {
                "type": kind,
                "status": "True",
                "reason": failed[0] if failed else "CompletionsReached",
                "message": failed[0] if failed else "",
            }
            for kind in kinds
        ]
        self._status(job, {"conditions": conditions, "completionTime": now()})

    def _complete(self, job: Object, index: int) -> str:
        """Pods one after another until one succeeds; why it was given up, empty if it was not."""
        failures, backoff = 0, job["spec"].get("backoffLimit", 6)
        while True:
            try:
                self.store.read("jobs", job["metadata"]["namespace"], job["metadata"]["name"])
                pod = self.store.create("pods", job["metadata"]["namespace"], _pod_of(job, index))
                self._pods.setdefault(job["metadata"]["uid"], []).append(pod["metadata"]["name"])
                code = self.node.run(pod)
                ended = self.store.read("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])
            except ApiError:
                return "Deleted"
            if code == 0:
                return ""
            action = _action(job["spec"].get("podFailurePolicy", {}).get("rules", []), ended, code)
            if action == "FailJob":
                return "PodFailurePolicy"
            failures += action == "Count"
            self._status(job, {"failed": failures})
            if failures > backoff:
                return "BackoffLimitExceeded"
            time.sleep(BACKOFF)

    def _end_with(self, job: Object) -> None:
        """Watch a Job; when it is deleted, end what it started."""
        meta = job["metadata"]
        while True:
            try:
                status = self.store.read("jobs", meta["namespace"], meta["name"])["status"]
            except ApiError:
                break
            if status.get("completionTime"):
                return
            time.sleep(0.2)
        self._end_pods(job)

    def _end_pods(self, job: Object) -> None:
        """A Job that has failed, or is gone, takes all its pods with it."""
        for name in self._pods.get(job["metadata"]["uid"], []):
            self.node.kill(name)

    def _status(self, job: Object, status: Object) -> None:
        try:
            self.store.patch("jobs", job["metadata"]["namespace"], job["metadata"]["name"], {"status": status})
        except ApiError:
            return


def _pod_of(job: Object, index: int) -> Object:
    meta, spec = job["metadata"], job["spec"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"], "controller": True}
    labels = {"job-name": meta["name"], "batch.kubernetes.io/job-name": meta["name"]}
    name = f"{meta['name'][:50]}-{uuid.uuid4().hex[:5]}"
    template = merged(spec["template"], {"metadata": {"name": name, "labels": labels, "ownerReferences": [owner]}})
    if spec.get("completionMode") == "Indexed":
        template["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] = str(index)
        template["spec"]["hostname"] = f"{meta['name']}-{index}"
        position = {"name": "JOB_COMPLETION_INDEX", "value": str(index)}
        for container in template["spec"]["containers"]:
            container["env"] = [*container.get("env", []), position]
    return template


def _action(rules: list[Object], pod: Object, code: int) -> str:
    """The action of the first rule that fits how a pod ended; Count where none does."""
    conditions = {(it["type"], it["status"]) for it in pod["status"].get("conditions", [])}
    for rule in rules:
        on_code = rule.get("onExitCodes")
        if on_code and (code in on_code["values"]) == (on_code["operator"] == "In"):
            return str(rule["action"])
        if any((it["type"], it.get("status", "True")) in conditions for it in rule.get("onPodConditions", [])):
            return str(rule["action"])
    return "Count"
