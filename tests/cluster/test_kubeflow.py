"""The pipeline as Kubeflow Pipelines gets it: compiled and submitted by the real clients, read by KFP's own loader."""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from pipelines.cluster.stack_files import STACKS
from srpo.steps import STEPS
from tests.cluster.kubeflow import CONTEXT, Kubeflow, kubeflow_api
from tests.cluster.site import ROOT, Site, settings
from tests.s3 import BUCKET

kfp = pytest.importorskip("kfp")
pytestmark = pytest.mark.slow
RUN = ["--config", str(ROOT / "configs/shapes.yaml"), "--stack", "kubeflow"]
RUN += settings("resources.train={gpus: 2, cpu: 3, retries: 4}")


@pytest.fixture(scope="module")
def kubeflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubeflow]:
    with kubeflow_api(tmp_path_factory.mktemp("kubeflow")) as made:
        yield made


@pytest.fixture(scope="module")
def site(kubernetes: Site, kubeflow: Kubeflow) -> Site:
    return kubernetes.register(
        "kubeflow",
        (STACKS / "kubeflow.yaml").read_text(),
        KUBECONFIG=str(kubeflow.kubeconfig),
        SRPO_KUBERNETES_CONTEXT=CONTEXT,
        SRPO_KUBEFLOW_URI=kubeflow.url,
    )


@pytest.fixture(scope="module")
def spec(site: Site, kubeflow: Kubeflow) -> dict[str, Any]:
    """What a run submits."""
    code, output = site.call("run", *RUN, "--detach")
    assert code == 0, output
    (run,) = kubeflow.runs
    return dict(run["pipeline_spec"])


def test_the_loader_of_kubeflow_reads_it(spec: dict[str, Any]) -> None:
    loaded = kfp.components.load_component_from_text(yaml.safe_dump(spec))
    assert set(loaded.pipeline_spec.root.dag.tasks) == set(STEPS)
    order = {name: set(task.dependent_tasks) for name, task in loaded.pipeline_spec.root.dag.tasks.items()}
    assert order["train"] == {"download", "embed"} and not order["download"]


def containers(spec: dict[str, Any]) -> dict[str, Any]:
    """Step -> its container."""
    executors = spec["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): executor["container"] for name, executor in executors.items()}


def test_every_step_has_the_image_and_its_cores(site: Site, spec: dict[str, Any]) -> None:
    found = containers(spec)
    assert {it["image"] for it in found.values()} == {site.environment["SRPO_IMAGE"]}
    assert found["train"]["resources"]["resourceCpuLimit"] == "3.0"


def test_every_step_finds_what_another_has_fetched(spec: dict[str, Any]) -> None:
    """Its pod has no volume, so the store is in S3."""
    named = [{it["name"]: it.get("value") for it in found["env"]} for found in containers(spec).values()]
    assert {variables["SRPO_STORE"] for variables in named} == {f"s3://{BUCKET}/zenml/srpo/store"}


def test_gpus_go_to_the_step_that_asks_for_them(spec: dict[str, Any]) -> None:
    found = {step: it["resources"].get("accelerator") for step, it in containers(spec).items()}
    assert found.pop("train")["resourceCount"] == "2" and set(found.values()) == {None}


def test_no_secret_of_the_site_is_in_it(site: Site, spec: dict[str, Any]) -> None:
    """But ZenML's own token, which it hands to every pod."""
    secrets = ("token-of-mlflow", site.environment["AWS_SECRET_ACCESS_KEY"], site.environment["ZENML_STORE_API_KEY"])
    assert not any(secret in str(spec) for secret in secrets)
