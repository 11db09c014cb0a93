"""A run's resources become settings that ZenML's own builders turn into valid Jobs; a local run has none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from zenml.config.retry_config import StepRetryConfig

from pipelines.cluster.resources import (
    PREEMPTIONS,
    STAYS,
    docker_settings,
    kubeflow_settings,
    num_gpus,
    pipeline_options,
    pod_settings,
    step_options,
)
from pipelines.place import Place
from pipelines.stacks import activate_local_stack
from srpo.config import RunConfig
from srpo.errors import ConfigError
from srpo.forecast import footprint
from srpo.steps import STEPS
from tests.infra.manifests import INFRA

FLUX = {"model": {"source": "hf://owner/flux"}}
STACK = yaml.safe_load((INFRA / "stacks/kubernetes.yaml").read_text())["orchestrator"]["configuration"]["pod_settings"]


@pytest.fixture(autouse=True)
def sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is asked how large the model is: of 2**30 values, one of them in a prompt's embeddings."""
    monkeypatch.setattr(footprint, "_sizes", lambda _: (2**30, 1))


def config_with(**resources: Any) -> RunConfig:
    return RunConfig.model_validate(FLUX | {"resources": resources})


def test_gpus_go_to_steps_that_run_a_real_model() -> None:
    sharded = RunConfig.model_validate(
        FLUX | {"train": {"num_processes": 8}, "monitor": {"num_images": 64}, "prompts": {"num_processes": 2}}
    )
    assert {step: num_gpus(sharded, step) for step in STEPS} == {
        "download": 0,
        "embed": 2,
        "train": 8,
        "evaluate": 1,
        "register": 0,
    }
    assert {num_gpus(RunConfig(), step) for step in STEPS} == {0}
    asked = config_with(train={"gpus": 0}, register={"gpus": 3})
    assert (num_gpus(asked, "train"), num_gpus(asked, "register")) == (0, 3)


def test_a_step_with_a_gpu_goes_where_they_are() -> None:
    pod = pod_settings(config_with(train={"cpu": 2.5, "memory": 100, "node_pool": {"pool": "a"}}), "train", STACK)
    asked = {"cpu": "2.5", "memory": "100Gi", "nvidia.com/gpu": "1"}
    assert pod["resources"] == {"requests": asked | pod["resources"]["requests"], "limits": asked}
    assert pod["node_selectors"] == {"nvidia.com/gpu.present": "true", "pool": "a"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    own = {"key": "team", "operator": "Exists"}
    assert own in pod_settings(config_with(), "train", {"tolerations": [own]})["tolerations"]


def test_a_step_without_a_gpu_stays_away_from_them() -> None:
    pod = pod_settings(config_with(), "register", STACK)
    assert "nvidia" not in str(pod)


def test_shared_memory_is_half_of_the_memory_and_mounted_once() -> None:
    stacks: tuple[dict[str, Any], ...] = (STACK, {})
    for stack in stacks:
        pod = pod_settings(config_with(embed={"memory": 30}), "embed", stack)
        assert [it["emptyDir"] for it in pod["volumes"] if it["name"] == "shared-memory"] == [
            {"medium": "Memory", "sizeLimit": "15Gi"}
        ]
        assert [it["mountPath"] for it in pod["volume_mounts"]].count("/dev/shm") == 1


def test_a_pod_asks_the_node_for_the_disk_that_its_files_take() -> None:
    """Unless the stack has another place for them than the node's disk."""
    asked = {step: pod_settings(config_with(), step, STACK)["resources"]["requests"] for step in STEPS}
    disk = {step: requests["ephemeral-storage"] for step, requests in asked.items() if "ephemeral-storage" in requests}
    values = 3 * (RunConfig().train.keep_last + 2) + 1
    assert disk == {"embed": "1Gi", "train": f"{4 * values + 1}Gi", "evaluate": "9Gi"}
    claimed = {"volumes": [{"name": "app", "ephemeral": {}}]}
    assert "ephemeral-storage" not in pod_settings(config_with(), "train", claimed)["resources"]["requests"]


def test_spot_nodes_are_wanted_and_borne() -> None:
    pod = pod_settings(config_with(train={"spot": True}, spot_labels={"spot": "yes"}), "train", STACK)
    assert pod["node_selectors"]["spot"] == "yes"
    assert {"key": "spot", "operator": "Exists"} in pod["tolerations"]


def test_kubeflow_reads_resource_settings() -> None:
    settings = kubeflow_settings(config_with(train={"cpu": 3}), "train", {})
    assert settings["resources"].gpu_count == 1 and settings["resources"].cpu_count == 3
    assert kubeflow_settings(config_with(), "download", {})["resources"].gpu_count == 0


def test_the_image_is_named_by_the_run_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SRPO_IMAGE", raising=False)
    with pytest.raises(ConfigError, match="resources.image or SRPO_IMAGE"):
        docker_settings(RunConfig())
    monkeypatch.setenv("SRPO_IMAGE", "host/srpo:1")
    assert docker_settings(RunConfig()).parent_image == "host/srpo:1"
    named = docker_settings(config_with(image="host/srpo:2"))
    assert (named.parent_image, named.skip_build, named.install_stack_requirements) == ("host/srpo:2", True, False)


@pytest.fixture
def remote(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A kubernetes stack as infra/stacks describes it, registered and active; nobody is asked."""
    from zenml.client import Client
    from zenml.enums import StackComponentType

    activate_local_stack(place)
    zenml, before = Client(), Client().active_stack_model.id
    described = yaml.safe_load((INFRA / "stacks/kubernetes.yaml").read_text())
    settings = described["orchestrator"]["configuration"] | {"kubernetes_context": "test"}
    operator = described["step_operator"]["configuration"]
    zenml.create_stack_component("sized", "kubernetes", StackComponentType.ORCHESTRATOR, settings)
    zenml.create_stack_component("sized", "kubernetes", StackComponentType.STEP_OPERATOR, operator)
    zenml.create_stack_component("sized", "local", StackComponentType.ARTIFACT_STORE, {"path": str(tmp_path)})
    kinds = (StackComponentType.ORCHESTRATOR, StackComponentType.STEP_OPERATOR, StackComponentType.ARTIFACT_STORE)
    stack = zenml.create_stack("sized", dict.fromkeys(kinds, "sized"))
    zenml.activate_stack("sized")
    yield zenml
    zenml.activate_stack(before)
    zenml.delete_stack(stack.id, recursive=True)


def test_the_stack_that_is_active_decides(remote: Any) -> None:
    options = step_options(config_with(train={"timeout": 90, "retries": 4}), "train")
    settings = options["settings"]["orchestrator.kubernetes"]
    assert settings["active_deadline_seconds"] == 90 * 60
    assert options["retry"] == StepRetryConfig(max_retries=4, delay=30)
    assert "retry" not in step_options(config_with(train={"retries": 0}), "train")


def test_a_step_on_spot_nodes_is_started_as_often_by_zenml_as_by_kubernetes(
    remote: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ZenML gives a Job its own retries and the margin; its server takes a preemption for a failure."""
    monkeypatch.setenv("SRPO_IMAGE", "host/srpo:1")
    train = compiled(config_with(train={"spot": True}), tmp_path).step_configurations["train"]
    assert train.config.retry.max_retries == 2 + PREEMPTIONS
    assert remote.active_stack.orchestrator.get_settings(train).backoff_limit_margin == 0
    two = {"train": {"num_processes": 2}, "resources": {"train": {"spot": True, "nodes": 2, "retries": 0}}}
    starter = compiled(RunConfig.model_validate(FLUX | two), tmp_path).step_configurations["train_nodes"]
    assert starter.config.retry.max_retries == PREEMPTIONS
    assert remote.active_stack.orchestrator.get_settings(starter).backoff_limit_margin == 0


def test_a_local_stack_has_no_options(place: Place) -> None:
    from pipelines.stacks import activate_local_stack

    activate_local_stack(place)
    assert {step: step_options(RunConfig(), step) for step in STEPS} == {step: {} for step in STEPS}


def test_a_compiled_step_has_its_pod_and_the_rest_of_the_stack(
    remote: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As ZenML's own orchestrator reads it back: a step's settings are merged into those of the stack."""
    monkeypatch.setenv("SRPO_IMAGE", "host/srpo:1")
    snapshot = compiled(config_with(train={"gpus": 2, "timeout": 1}), tmp_path)
    orchestrator = remote.active_stack.orchestrator
    read = {name: orchestrator.get_settings(step) for name, step in snapshot.step_configurations.items()}
    assert list(read) == list(STEPS)
    limits = {name: settings.pod_settings.resources["limits"].get("nvidia.com/gpu") for name, settings in read.items()}
    assert limits == {"download": None, "embed": "1", "train": "2", "evaluate": "1", "register": None}
    assert {settings.step_pod_service_account_name for settings in read.values()} == {"step"}
    assert all(settings.pod_settings.env == STACK["env"] for settings in read.values())
    assert {settings.backoff_limit_margin for settings in read.values()} == {20}
    assert (read["train"].active_deadline_seconds, read["embed"].active_deadline_seconds) == (60, None)
    images = {step.config.docker_settings.parent_image for step in snapshot.step_configurations.values()}
    assert images == {"host/srpo:1"} and snapshot.pipeline_configuration.docker_settings.skip_build
    assert {step.config.retry.max_retries for step in snapshot.step_configurations.values()} == {2}


def test_over_nodes_one_pod_starts_the_others_and_none_but_theirs_has_gpus(
    remote: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SRPO_IMAGE", "host/srpo:1")
    snapshot = compiled(
        RunConfig.model_validate(
            FLUX | {"train": {"num_processes": 2}, "resources": {"train": {"nodes": 2, "gpus": 4}}}
        ),
        tmp_path,
    )
    steps = snapshot.step_configurations
    assert list(steps) == ["download", "embed", "hand_over", "train_nodes", "train", "evaluate", "register"]
    assert [steps[name].spec.upstream_steps for name in ("train_nodes", "train")] == [["hand_over"], ["train_nodes"]]
    read = {name: remote.active_stack.orchestrator.get_settings(step) for name, step in steps.items()}
    asked = {name: settings.pod_settings.resources["limits"].get("nvidia.com/gpu") for name, settings in read.items()}
    assert {name for name, gpus in asked.items() if gpus} == {"embed", "evaluate"}
    accounts = {name: settings.step_pod_service_account_name for name, settings in read.items()}
    assert {name for name, account in accounts.items() if account == "starter"} == {"train_nodes"}
    stays = {name for name, settings in read.items() if settings.pod_settings.annotations == STAYS}
    assert stays == {"train_nodes"}
    assert remote.active_stack.orchestrator.config.orchestrator_pod_settings.annotations == STAYS
    starter = read["train_nodes"].pod_settings.additional_pod_spec_args
    assert starter["automount_service_account_token"] and starter["security_context"]["runAsNonRoot"]
    nodes = remote.active_stack.step_operator.get_settings(steps["train_nodes"])
    assert (nodes.pod_count, nodes.service_account_name) == (2, "step")
    assert nodes.pod_settings.resources["limits"]["nvidia.com/gpu"] == "4"
    assert not nodes.pod_settings.annotations, "pods on spot nodes may go"
    assert not nodes.pod_settings.additional_pod_spec_args["automount_service_account_token"]
    assert steps["train_nodes"].config.command[:3] == ["python", "-m", "steps.train_nodes"]


def compiled(config: RunConfig, tmp_path: Path) -> Any:
    """ZenML's snapshot of the pipeline on the active stack."""
    from pipelines.alignment import Request, alignment
    from srpo.tracking import TrackedRun

    tracked = TrackedRun(uri="", run_id="")
    request = Request(
        run_dir=str(tmp_path),
        embeddings_dir=str(tmp_path),
        scores_dir=str(tmp_path),
        prompts="",
        fingerprint="",
        tracked=tracked,
        until="register",
    )
    submitted = alignment.with_options(**pipeline_options(config))
    submitted.prepare(config, request)
    return submitted._compile()[0]
