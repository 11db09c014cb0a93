"""A plan on a cluster: Jobs that are valid, hours that are the prediction's, a price that is the file's."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cluster.jobs import check_jobs, render_jobs
from pipelines.cluster.prices import PRICES, Price, find_price, read_prices
from pipelines.cluster.remote_plan import plan_remotely
from pipelines.cluster.resources import PREEMPTIONS
from pipelines.cluster.stack_files import StackFile, fill, read_stack
from pipelines.place import Place
from srpo.config import RunConfig
from srpo.errors import ConfigError
from srpo.forecast.price import price
from srpo.gpus import GPUS
from srpo.steps import STEPS
from tests.infra.manifests import pod_problems
from tests.runs import call

CREDENTIALS = {"secretRef": {"name": "credentials", "optional": True}}
ONE_GPU = {"gpus": 1, "spot": True, "timeout": 30, "retries": 4}


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> StackFile:
    """The kubernetes stack at some site."""
    for name in ("SRPO_KUBERNETES_CONTEXT", "SRPO_BUCKET", "SRPO_REGISTRY", "SRPO_MLFLOW_URI", "SRPO_KUBEFLOW_URI"):
        monkeypatch.setenv(name, "somewhere")
    monkeypatch.setenv("SRPO_IMAGE", "host/srpo:1")
    return fill(read_stack("kubernetes"))


def graces(jobs: dict[str, dict[str, Any]]) -> set[int]:
    return {job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] for job in jobs.values()}


def test_pods_have_the_time_to_save_that_the_training_counts_on(stack: StackFile) -> None:
    config = RunConfig.model_validate({"storage": {"grace_s": 90.5}})
    assert graces(render_jobs(config, stack, STEPS)) == {91}
    several = {"train": {"num_processes": 2}, "resources": {"train": {"nodes": 2}}}
    over_nodes = RunConfig.model_validate({"storage": {"grace_s": 90.5}} | several)
    jobs = render_jobs(over_nodes, stack, ["train"])
    assert graces(jobs) == {91} and pod_problems(jobs["train"]["spec"]["template"]["spec"]) == []


def sized(**resources: Any) -> RunConfig:
    """Of few steps: to foresee a run is to go through an update of it."""
    short = {"rollout": {"num_steps": 2}, "train": {"batch_size": 1}, "reward": {"architecture": "shapes-vit.json"}}
    return RunConfig.model_validate(short | {"resources": resources})


def test_jobs_are_restricted_and_hold_what_was_asked_for(stack: StackFile) -> None:
    jobs = render_jobs(sized(train=ONE_GPU), stack, STEPS)
    pods = {step: job["spec"]["template"]["spec"] for step, job in jobs.items()}
    assert {step: pod_problems(pod) for step, pod in pods.items()} == {step: [] for step in STEPS}
    gpus = {step: pod["containers"][0]["resources"]["limits"].get("nvidia.com/gpu") for step, pod in pods.items()}
    assert gpus == dict.fromkeys(STEPS) | {"train": "1"}
    assert pods["train"]["nodeSelector"] == {"nvidia.com/gpu.present": "true", "karpenter.sh/capacity-type": "spot"}
    assert {pod["serviceAccountName"] for pod in pods.values()} == {"step"}
    assert {pod["containers"][0]["image"] for pod in pods.values()} == {"host/srpo:1"}
    train = jobs["train"]["spec"]
    assert (train["activeDeadlineSeconds"], train["backoffLimit"]) == (30 * 60, 4 + PREEMPTIONS)
    assert train["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"] == [42]
    assert all(pod["containers"][0]["envFrom"] == [CREDENTIALS] for pod in pods.values())


def test_several_nodes_are_one_job_of_pods_that_start_together(stack: StackFile) -> None:
    train = {"train": {"num_processes": 8}, "monitor": {"num_images": 64}}
    config = RunConfig.model_validate(train | {"resources": {"train": {"nodes": 2, "gpus": 4, "timeout": 30}}})
    jobs = render_jobs(config, stack, ["train"])
    spec = jobs["train"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert (spec["backoffLimit"], spec["activeDeadlineSeconds"]) == (0, 30 * 60)
    pod = spec["template"]["spec"]
    assert pod_problems(pod) == [] and pod["serviceAccountName"] == "step"
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert pod["containers"][0]["envFrom"] == [CREDENTIALS]
    assert check_jobs(jobs) == "1 Jobs, valid for Kubernetes 1.33"
    with pytest.raises(ConfigError, match="resources.train.nodes is 2, but stack srpo-kubernetes has no step operator"):
        render_jobs(config, stack.model_copy(update={"step_operator": None}), ["train"])


def test_jobs_are_held_against_the_schema(stack: StackFile) -> None:
    pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    jobs = render_jobs(sized(train=ONE_GPU), stack, STEPS)
    assert check_jobs(jobs) == "5 Jobs, valid for Kubernetes 1.33"
    wrong = copy.deepcopy(jobs)
    wrong["train"]["spec"]["template"]["spec"]["nodeSelecter"] = {}
    with pytest.raises(ConfigError, match=r"Job of train .*spec.template.spec: .*nodeSelecter"):
        check_jobs(wrong)


def test_hours_and_price_follow_from_the_prediction(stack: StackFile) -> None:
    config, usd = sized(gpu="H100", train=ONE_GPU), yaml.safe_load(PRICES.read_text())["H100"]
    plan, predicted = plan_remotely(config, stack, tuple(STEPS)), price(config, "H100")
    training = predicted.hours + predicted.measuring_hours
    assert plan.gpu_hours == {"train": training}
    assert plan.price == training * usd["spot"]
    both = plan_remotely(sized(gpu="H100", train=ONE_GPU, evaluate={"gpus": 1}), stack, tuple(STEPS))
    assert both.gpu_hours == {"train": training, "evaluate": predicted.evaluation_hours}
    assert both.price == pytest.approx(training * usd["spot"] + predicted.evaluation_hours * usd["on_demand"])
    assert plan.artifacts == "s3://somewhere/zenml"
    unnamed = plan_remotely(sized(train=ONE_GPU), stack, tuple(STEPS))
    assert (unnamed.gpu_hours, unnamed.price) == (None, None)
    unpriced = plan_remotely(sized(gpu="H200", train=ONE_GPU), stack, tuple(STEPS))
    assert unpriced.gpu_hours and unpriced.price is None, "the file has none for spot"
    assert plan_remotely(sized(gpu="H100"), stack, tuple(STEPS)).price == 0, "the builtin model asks for no GPU"


def test_what_a_run_would_refuse_is_refused_here(stack: StackFile) -> None:
    with pytest.raises(ConfigError, match="pods cannot see /models/mine of this machine"):
        plan_remotely(RunConfig.model_validate({"model": {"source": "/models/mine"}}), stack, tuple(STEPS))
    two = RunConfig.model_validate({"resources": {"train": {"nodes": 2}}, "train": {"num_processes": 2}})
    with pytest.raises(ConfigError, match="resources.train.nodes is 2, but stack srpo-kubeflow has no step operator"):
        plan_remotely(two, fill(read_stack("kubeflow")), tuple(STEPS))


def test_kubeflow_has_no_jobs(stack: StackFile) -> None:
    plan = plan_remotely(sized(), fill(read_stack("kubeflow")), tuple(STEPS))
    assert plan.jobs == {} and "kubeflow" in plan.checked
    with pytest.raises(ConfigError, match="runs on this machine"):
        plan_remotely(sized(), read_stack("local"), tuple(STEPS))


def test_every_price_is_of_a_gpu_that_plans_know() -> None:
    assert read_prices().keys() <= GPUS.keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("H100: {spot: 0, on_demand: 1}", "greater than 0"),
        ("H100: {each: 1}", "each"),
        ("- 1", "cannot be read"),
    ],
)
def test_a_price_that_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        find_price("H100", spot=True, path=path)
    for missing in ("H200: {on_demand: 2, spot: 1}", "H100: {on_demand: 2}"):
        path.write_text(missing)
        assert find_price("H100", spot=True, path=path) is None
    path.write_text("H100: {on_demand: 3, spot: 1.5}")
    assert read_prices(path) == {"H100": Price(on_demand=3, spot=1.5)}
    assert (find_price("H100", False, path), find_price("H100", True, path)) == (3, 1.5)


def test_a_gpu_without_a_price_is_planned_all_the_same(
    place: Place, stack: StackFile, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--gpu", "A100-80", "--until", "train", "--set", "resources.train.gpus=1")
    assert call("plan", "--stack", "kubernetes", *options) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(r"GPU-hours train \S+ of A100-80 \(predicted\); infra/prices.yaml lacks a price of A100-80", shown)


def test_the_command_shows_the_plan_and_writes_the_jobs(
    place: Place, stack: StackFile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "jobs.yaml"
    sets = ("--set", "resources.train.gpus=1", "--set", "resources.max_gpu_hours=1e-9")
    assert call("plan", "--stack", "kubernetes", "--gpu", "H100", "--jobs", str(path), "--until", "train", *sets) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "3 Jobs, valid for Kubernetes 1.33" in shown and "s3://somewhere/zenml" in shown
    assert "GiB needed, none of it here" in shown and "embed 1Gi, train 1Gi of the node" in shown
    assert re.search(r"GPU-hours train \S+ of H100 \(predicted\); \S+ USD by infra/prices.yaml", shown)
    assert "training stops at resources.max_gpu_hours 1e-09" in shown
    names = [job["metadata"]["name"] for job in yaml.safe_load_all(path.read_text())]
    assert names == ["srpo-download", "srpo-embed", "srpo-train"]
