"""Training over several nodes as a user runs it: two pods of two processes each, started by ZenML's step operator."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from tests.cluster.site import Site, objects, wait_for
from tests.cluster.test_pipeline import ON_CLUSTER, checkpoints, local_folder, pods, run
from tests.s3 import BUCKET, s3_client

pytestmark = pytest.mark.slow
WEIGHTS = "checkpoints/update-000006/transformer.safetensors"
OVER_NODES = ("train.num_processes=4", "train.batch_size=1", "resources.train.nodes=2", "resources.train.gpus=0")
IN_ONE = ("train.num_processes=1", "train.batch_size=1", "train.accumulation=4")


def test_two_pods_train_as_one_process_though_one_of_them_is_killed(kubernetes: Site, tmp_path: Path) -> None:
    process = kubernetes.start(*run("nodes", *OVER_NODES), *ON_CLUSTER, "--until", "train")
    wait_for(lambda: checkpoints(kubernetes, "nodes"))
    first = trainers(kubernetes)
    assert sorted(pod["spec"]["hostname"][-2:] for pod in first) == ["-0", "-1"]
    kubernetes.cluster.node.kill(first[1]["metadata"]["name"])
    output, _ = process.communicate()
    assert process.returncode == 0, output
    again = trainers(kubernetes)[2:]
    assert [pod["status"]["phase"] for pod in again] == ["Succeeded"] * 2
    journal = content(kubernetes, "metrics.jsonl").decode().splitlines()
    assert [json.loads(line)["update"] for line in journal] == list(range(1, 7))
    expected = load((local_folder(kubernetes, tmp_path, "alone", *IN_ONE) / WEIGHTS).read_bytes())
    got = load(content(kubernetes, WEIGHTS))
    assert expected.keys() == got.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], atol=1e-5, rtol=0)


def trainers(site: Site) -> list[dict[str, dict[str, str]]]:
    """Pods that train together, oldest first; the one that starts them is no such."""
    return [pod for pod in pods(site, "nodes-", "train_nodes") if "subdomain" in pod["spec"]]


def content(site: Site, name: str) -> bytes:
    """A file of the training's folder in the bucket."""
    (key,) = [key for key in objects(site, "zenml/srpo/runs/nodes-") if f"/train/{name}/" in key]
    return bytes(s3_client(site.environment).get_object(Bucket=BUCKET, Key=key)["Body"].read())
