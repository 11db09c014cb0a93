"""`run --stack kubernetes` from its first step to the registered version, as short as it can be, on real servers.

The settings ask for GPUs, which the loopback node grants and nobody uses: what reaches the API server is looked at.
"""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from srpo.steps import STEPS
from tests.cluster.site import ROOT, Site, settings
from tests.conftest import SHORT

pytestmark = pytest.mark.slow
GPU = "nvidia.com/gpu"
OWN = ("ZENML_", "DISABLE_CREDENTIALS_DISK_CACHING")
"""How the variables begin that ZenML adds."""
SHORTEST = (
    *SHORT,
    "train.num_updates=1",
    "evaluation.num_report_images=1",
    "resources.train={gpus: 2, spot: true, retries: 4, timeout: 30, node_pool: {pool: large}}",
)
STACK = ("--stack", "kubernetes")
RUN = ["--config", str(ROOT / "configs/shapes.yaml"), *settings(*SHORTEST), *STACK]


@pytest.fixture(scope="module")
def finished(kubernetes: Site) -> str:
    """Output of a whole run."""
    code, output = kubernetes.call("run", *RUN)
    assert code == 0, output
    return output


@pytest.fixture
def specs(kubernetes: Site, finished: str) -> dict[str, dict[str, Any]]:
    """Step -> spec of the Job that ZenML has created for it."""
    jobs = [job for step in STEPS for job in kubernetes.cluster.store.list("jobs", "srpo", f"step_name={step}")]
    return {job["metadata"]["annotations"]["zenml.io/step-name"]: job["spec"] for job in jobs}


def test_five_pods_make_a_version_of_the_model(kubernetes: Site, finished: str) -> None:
    pods = [pod for step in STEPS for pod in kubernetes.cluster.pods(step)]
    assert [pod["metadata"]["labels"]["step_name"] for pod in pods] == list(STEPS)
    assert {pod["status"]["phase"] for pod in pods} == {"Succeeded"}
    assert kubernetes.versions("shapes") == ["1"] and "shapes version 1" in finished
    (report,) = kubernetes.folder.glob(".srpo/runs/*/evaluation/report.html")
    assert str(report) in finished.replace("\n", ""), "brought from the pod's disk"


def test_the_version_is_drawn_and_promoted_from_another_machine(
    kubernetes: Site, finished: str, tmp_path: Path
) -> None:
    assert "generate --model models:/shapes/1 --stack srpo-kubernetes" in finished
    there, prompt = replace(kubernetes, folder=tmp_path), "a red circle on a blue background"
    code, output = there.call("generate", "--model", "shapes/1", *STACK, "--prompts", prompt, "--out", "pictures")
    assert code == 0, output
    (picture,) = tmp_path.glob("pictures/*.png")
    assert Image.open(picture).info["model"] == "models:/shapes/1"
    code, output = there.call("promote", "shapes/1", "--reason", "looked at", *STACK)
    assert code == 0 and "shapes: version 1 is champion" in output, output


def test_steps_that_need_no_gpu_are_kept_away_from_them(specs: dict[str, dict[str, Any]]) -> None:
    asking = [step for step, spec in specs.items() if GPU in str(spec["template"]["spec"])]
    assert asking == ["train"]
    pod = specs["train"]["template"]["spec"]
    resources = pod["containers"][0]["resources"]
    assert (resources["limits"][GPU], resources["requests"][GPU]) == ("2", "2")
    assert pod["nodeSelector"].keys() == {"nvidia.com/gpu.present", "karpenter.sh/capacity-type", "pool"}
    assert {entry["key"] for entry in pod["tolerations"]} == {GPU, "karpenter.sh/capacity-type"}
    assert (specs["train"]["backoffLimit"], specs["train"]["activeDeadlineSeconds"]) == (4 + 20, 30 * 60)
    assert not any(spec["template"]["spec"].get("nodeSelector") for step, spec in specs.items() if step != "train")


def test_the_jobs_are_those_that_plan_shows(
    kubernetes: Site, specs: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.cluster.jobs import render_jobs
    from pipelines.cluster.stack_files import fill, parse_stack
    from srpo.config import load_config

    for name, value in kubernetes.environment.items():
        if name.startswith("SRPO_"):
            monkeypatch.setenv(name, value)
    stack = fill(parse_stack(kubernetes.stack, "kubernetes"))
    planned = render_jobs(load_config(ROOT / "configs/shapes.yaml", SHORTEST), stack, STEPS)
    for step in STEPS:
        expected = planned[step]["spec"]
        assert without_run(specs[step], environment(expected)) == without_run(expected, environment(expected))


def environment(spec: dict[str, Any]) -> list[Any]:
    (container,) = spec["template"]["spec"]["containers"]
    return list(container["env"])


def without_run(spec: dict[str, Any], planned: list[Any]) -> dict[str, Any]:
    """A Job's spec without what only a submitted run has: ZenML's labels, snapshot, environment and token."""
    spec = copy.deepcopy(spec)
    (container,) = spec["template"]["spec"]["containers"]
    del spec["template"]["metadata"]
    del container["args"][container["args"].index("--snapshot_id") + 1]
    container["env"] = [entry for entry in container["env"] if entry in planned or not entry["name"].startswith(OWN)]
    return spec
