"""Training over several nodes as a user runs it: two pods of two processes each, started by ZenML's step operator."""

import json
from pathlib import Path

import boto3
import pytest
import torch
from safetensors.torch import load

from tests.cluster.pods import isolation
from tests.cluster.servers import BUCKET
from tests.cluster.site import Site, objects, site
from tests.cluster.test_pipeline import RUN, checkpoints, local_folder, wait_for

pytest.importorskip("kubernetes")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not isolation(), reason="unshare may not make mounts here, which pods need"),
]
WEIGHTS = "checkpoints/update-000006/transformer.safetensors"
OVER_NODES = ("train.num_processes=4", "train.batch_size=1", "resources.train.nodes=2", "resources.train.gpus=0")
IN_ONE = ("train.num_processes=1", "train.batch_size=1", "train.accumulation=4")


def test_two_pods_train_as_one_process_though_one_of_them_is_killed(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with site(tmp_path_factory.mktemp("site")) as kubernetes:
        process = kubernetes.start(*RUN, *settings(OVER_NODES), "--stack", "kubernetes", "--until", "train")
        wait_for(lambda: checkpoints(kubernetes))
        trainers = [pod for pod in kubernetes.cluster.pods("train_nodes") if "subdomain" in pod["spec"]]
        assert sorted(pod["spec"]["hostname"][-2:] for pod in trainers) == ["-0", "-1"]
        kubernetes.cluster.node.kill(trainers[1]["metadata"]["name"])
        output, _ = process.communicate()
        assert process.returncode == 0, output
        again = [pod for pod in kubernetes.cluster.pods("train_nodes") if "subdomain" in pod["spec"]]
        assert len(again) == 4 and {pod["status"]["phase"] for pod in again[2:]} == {"Succeeded"}
        first = [json.loads(line)["update"] for line in journal(kubernetes)]
        assert first == list(range(1, 7))
        alone = local_folder(kubernetes, tmp_path, *settings(IN_ONE))
        expected = load((alone / WEIGHTS).read_bytes())
        got = load(content(kubernetes, WEIGHTS))
        assert expected.keys() == got.keys()
        for name in expected:
            torch.testing.assert_close(got[name], expected[name], atol=1e-5, rtol=0)


def settings(overrides: tuple[str, ...]) -> list[str]:
    return [part for override in overrides for part in ("--set", override)]


def content(kubernetes: Site, name: str) -> bytes:
    """A file of the training's folder in the bucket."""
    (key,) = [key for key in objects(kubernetes, "zenml/srpo/") if f"/train/{name}/" in key]
    s3 = boto3.session.Session().client("s3", endpoint_url=kubernetes.environment["AWS_ENDPOINT_URL"])
    return bytes(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())


def journal(kubernetes: Site) -> list[str]:
    return content(kubernetes, "metrics.jsonl").decode().splitlines()
