"""Scheduled retraining on the cluster: the CronJob that the real clients make, and what its pod does."""

from typing import Any

import pytest

from tests.cluster.site import ROOT, Site, settings, wait_for
from tests.conftest import SHORT

pytestmark = pytest.mark.slow
CONFIG = ["--config", str(ROOT / "configs/shapes.yaml"), *settings(*SHORT, "registry.model_name=scheduled")]
CREATE = ["schedule", "create", "--cron", "0 3 * * 0", *CONFIG, "--stack", "kubernetes", "--name"]


def cron_jobs(site: Site) -> list[dict[str, Any]]:
    return [job["spec"] for job in site.cluster.store.list("cronjobs", "srpo")]


def called(site: Site, *arguments: str) -> str:
    code, output = site.call(*arguments)
    assert code == 0, output
    return output


def test_a_schedule_is_a_cron_job_that_never_overlaps(kubernetes: Site) -> None:
    called(kubernetes, *CREATE, "weekly")
    (spec,) = cron_jobs(kubernetes)
    assert (spec["schedule"], spec["concurrencyPolicy"], spec["startingDeadlineSeconds"]) == (
        "0 3 * * 0",
        "Forbid",
        3600,
    )
    assert (spec["successfulJobsHistoryLimit"], spec["failedJobsHistoryLimit"]) == (3, 3)
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "orchestrator" and "nvidia" not in str(pod)
    assert pod["containers"][0]["image"] == kubernetes.environment["SRPO_IMAGE"]
    assert "weekly: 0 3 * * 0, active, on srpo-kubernetes" in called(kubernetes, "schedule", "list")
    for command, suspended in (("pause", True), ("resume", False)):
        called(kubernetes, "schedule", command, "weekly")
        assert cron_jobs(kubernetes)[0]["suspend"] is suspended
    called(kubernetes, "schedule", "delete", "weekly")
    assert cron_jobs(kubernetes) == []


def test_a_pod_that_looks_starts_the_pipeline_of_its_own_cluster(kubernetes: Site) -> None:
    """`run-now` does at once what the CronJob does at its time; no context of a kubeconfig leads there from a pod."""
    called(kubernetes, *CREATE, "nightly")
    called(kubernetes, "schedule", "run-now", "nightly")
    wait_for(lambda: ended(kubernetes, "retrain"), 1200)
    (looked,) = kubernetes.cluster.pods("retrain")
    log = kubernetes.cluster.node.log(looked["metadata"]["name"])
    assert looked["status"]["phase"] == "Succeeded", log
    assert "there is no champion yet" in log and "scheduled version 1" in log
    assert kubernetes.versions("scheduled") == ["1"]
    called(kubernetes, "schedule", "delete", "nightly")


def test_a_pod_that_looks_again_watches_the_run_that_it_had_started(kubernetes: Site) -> None:
    """Killed while the run trains: one run, one version, though the pod's second attempt finds no champion either."""
    called(kubernetes, *CREATE, "again", *settings("registry.model_name=again", "name=again", "train.num_updates=20"))
    before = len(kubernetes.cluster.pods("retrain"))
    called(kubernetes, "schedule", "run-now", "again")
    wait_for(lambda: running(kubernetes, "train"), 600)
    kubernetes.cluster.node.kill(kubernetes.cluster.pods("retrain")[-1]["metadata"]["name"])
    wait_for(lambda: len(kubernetes.cluster.pods("retrain")) > before + 1 and ended(kubernetes, "retrain"), 1200)
    log = kubernetes.cluster.node.log(kubernetes.cluster.pods("retrain")[-1]["metadata"]["name"])
    assert "is at work on this model already, and is watched instead" in log and "again version 1" in log
    assert kubernetes.versions("again") == ["1"]
    called(kubernetes, "schedule", "delete", "again")


def running(site: Site, step: str) -> bool:
    return any(pod["status"].get("phase") == "Running" for pod in site.cluster.pods(step))


def ended(site: Site, step: str) -> bool:
    phases = [pod["status"].get("phase") for pod in site.cluster.pods(step)]
    return bool(phases) and phases[-1] in ("Succeeded", "Failed")
