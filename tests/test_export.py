"""Exports read back: by diffusers' own pipeline, from a real S3 server, and as a card that leaves nothing out."""

import errno
import json
import os
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from botocore.retries.standard import ExponentialBackoff
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from mlflow import MlflowClient
from peft import LoraConfig as PeftConfig
from PIL import Image
from safetensors.torch import load_file, save_file

import run_pipeline
from pipelines.outcome import Outcome
from pipelines.place import Place
from srpo.artifacts import TrainJob
from srpo.config import LoraConfig, ModelConfig, RunConfig
from srpo.errors import ConfigError, UnreachableError
from srpo.export import export
from srpo.export.card import UNKNOWN, find_licences
from srpo.export.comfy import OUTPUTS, as_workflow, text_to_image
from srpo.generate import ModelFiles, Sampling
from srpo.hub.s3 import Bucket
from srpo.models import load_model
from srpo.models.weights import ADAPTER
from srpo.reference import find_model
from srpo.registry import load_report
from srpo.tracking import open_run
from tests.durable.faulty_proxy import FaultyProxy
from tests.infra.loopback import NOBODY
from tests.jobs import run
from tests.runs import call
from tests.s3 import BUCKET

TO = f"s3://{BUCKET}/a/b"
PROMPT = "a red circle on a blue background"


@pytest.fixture
def files(flux_folder: Path) -> ModelFiles:
    model = ModelConfig(source=str(flux_folder), height=32, width=32, max_sequence_length=12)
    found = find_model(str(flux_folder), RunConfig(model=model))
    return found.model_copy(update={"sampling": found.sampling.model_copy(update={"num_steps": 3})})


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(("model", "written"), [("flux_folder", "config.json"), ("qwen_folder", "model_index.json")])
def test_without_a_format_each_family_is_exported_as_its_users_read_it(
    model: str, written: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    assert call("export", str(request.getfixturevalue(model)), "--to", str(tmp_path / "out")) == 0
    assert (tmp_path / "out" / written).is_file()


def test_the_exported_folder_draws_what_generate_draws(files: ModelFiles, tmp_path: Path) -> None:
    export(files, str(tmp_path / "out"), "folder", [])
    pipeline = FluxPipeline.from_pretrained(tmp_path / "out", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        PROMPT,
        height=32,
        width=32,
        num_inference_steps=3,
        guidance_scale=3.5,
        max_sequence_length=12,
        generator=torch.Generator().manual_seed(4),
        output_type="np",
    ).images[0]
    (drawn,) = files.painter().draw([(PROMPT, 4)], files.sampling)
    assert np.abs(drawn.permute(1, 2, 0).numpy() - expected).max() <= 1e-4  # float32 arithmetic in another order


def test_an_export_to_s3_holds_what_one_to_a_folder_holds(files: ModelFiles, bucket: Any, tmp_path: Path) -> None:
    export(files, str(tmp_path / "out"), "transformer", [])
    export(files, TO, "transformer", [])
    keys = [entry["Key"] for entry in bucket.list_objects_v2(Bucket=BUCKET)["Contents"]]
    expected = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert sorted(keys) == sorted(f"a/b/{name}" for name in expected)
    for name, content in expected.items():
        assert bucket.get_object(Bucket=BUCKET, Key=f"a/b/{name}")["Body"].read() == content


def test_a_prefix_that_holds_something_is_left_alone(files: ModelFiles, bucket: Any) -> None:
    bucket.put_object(Bucket=BUCKET, Key="a/b/model.safetensors", Body=b"precious")
    with pytest.raises(ConfigError, match=f"--to {TO} holds model.safetensors already; give a new prefix"):
        export(files, TO, "transformer", [])
    assert [entry["Key"] for entry in bucket.list_objects_v2(Bucket=BUCKET)["Contents"]] == ["a/b/model.safetensors"]
    bucket.put_object(Bucket=BUCKET, Key="a/bc/", Body=b"")  # a folder, as consoles make them
    export(files, f"{TO}c", "transformer", [])


def test_what_is_edited_in_an_exported_folder_stays_in_it(files: ModelFiles, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(files, str(out), "folder", [])
    assert {path.suffix for path in out.rglob("*") if path.is_file() and path.stat().st_nlink > 1} == {".safetensors"}


@pytest.mark.parametrize(
    ("to", "said"),
    [
        ("s3://nowhere/x", r"s3://nowhere/x cannot be used \(NoSuchBucket\)"),
        (f"s3://{BUCKET}", f"--to s3://{BUCKET}: name a bucket and a prefix"),
        ("gs://models/x", "--to gs://models/x: give a folder"),
        (".", "--to . is the current folder"),
    ],
)
def test_a_target_that_cannot_take_it_is_refused(
    to: str, said: str, files: ModelFiles, bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said):
        export(files, to, "transformer", [])


def test_a_mount_point_is_refused_before_any_work(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(_: Path) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    (out := tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "rmdir", busy)
    with pytest.raises(ConfigError, match=r"out exists already and cannot be replaced \(Device or resource busy\)"):
        export(files, str(out), "transformer", [])
    assert list(tmp_path.iterdir()) == [out]


def test_an_empty_folder_holds_nothing_yet(files: ModelFiles, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for there in (tmp_path / "file", tmp_path):
        with pytest.raises(ConfigError, match=f"{there} exists already"):
            export(files, str(there), "transformer", [])
    assert (tmp_path / "file").is_file()
    (tmp_path / "out").mkdir()
    export(files, str(tmp_path / "out"), "transformer", [])
    assert (tmp_path / "out" / "README.md").is_file()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 tries again at once."""
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *_: 0)


@pytest.mark.usefixtures("bucket", "impatient")
def test_s3_that_is_away_may_be_tried_again(files: ModelFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", NOBODY)
    with pytest.raises(UnreachableError, match=f"{TO} cannot be reached now"):
        export(files, TO, "transformer", [])


@pytest.mark.usefixtures("impatient")
def test_s3_that_goes_away_in_the_middle_may_be_tried_again(
    files: ModelFiles, bucket: Any, moto_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`config.json` arrives; every connection that the weights take breaks, and what is there goes again."""
    proxy = FaultyProxy(moto_url)
    proxy.fault = "cut"
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    with pytest.raises(UnreachableError, match=f"{TO} cannot be reached now"):
        export(files, TO, "transformer", [])
    assert "Contents" not in bucket.list_objects_v2(Bucket=BUCKET)
    proxy.fault = "none"
    export(files, TO, "transformer", [])
    proxy.close()
    keys = [entry["Key"] for entry in bucket.list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert {"a/b/README.md", "a/b/config.json"} < set(keys)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConfigError("no right to write")], ids=["ctrl-c", "refused"])
def test_an_upload_that_is_cut_off_leaves_nothing_in_the_way_of_the_next(
    error: type[BaseException] | BaseException, files: ModelFiles, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = Bucket.upload

    def cut_off(self: Bucket, path: Path, key: str) -> None:
        if path.suffix == ".safetensors":
            raise error
        upload(self, path, key)

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, ConfigError)):
        patch.setattr(Bucket, "upload", cut_off)
        export(files, TO, "transformer", [])
    assert "Contents" not in bucket.list_objects_v2(Bucket=BUCKET)
    export(files, TO, "transformer", [])


def test_the_base_own_card_and_licence_file_state_its_terms(files: ModelFiles, tmp_path: Path) -> None:
    elsewhere = files.model_copy(update={"base": tmp_path})
    assert find_licences(elsewhere, None)[0].terms == UNKNOWN
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: flux-1-dev\n---\n# FLUX\n")
    (tmp_path / "LICENSE.md").touch()
    assert find_licences(elsewhere, None)[0].terms == "flux-1-dev, other, LICENSE.md"


def test_every_link_of_the_graph_joins_an_output_to_an_input(files: ModelFiles) -> None:
    graph = text_to_image(files, PROMPT, 7, "x.safetensors")
    workflow = as_workflow(graph)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert {node["type"] for node in nodes.values()} == set(OUTPUTS) - {"ModelSamplingFlux"}
    for link, source, slot, target, entry, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][slot]["links"]
        assert nodes[source]["outputs"][slot]["type"] == kind
        assert nodes[target]["inputs"][entry]["link"] == link
    sampler = next(node for node in nodes.values() if node["type"] == "KSampler")
    assert sampler["widgets_values"] == [7, "fixed", 3, 1.0, "euler", "simple", 1.0]


@pytest.mark.parametrize(
    ("settings", "node"),
    [
        ({"use_dynamic_shifting": False, "shift": 1.0}, {"class_type": "ModelSamplingAuraFlow", "shift": 1.0}),
        (
            {"use_dynamic_shifting": True, "base_shift": 0.25, "max_shift": 0.75},
            {"class_type": "ModelSamplingFlux", "base_shift": 0.25, "max_shift": 0.75, "width": 32, "height": 32},
        ),
    ],
    ids=["schnell", "dev"],
)
def test_comfy_samples_by_the_schedule_of_the_folder(
    settings: dict[str, object], node: dict[str, object], files: ModelFiles, tmp_path: Path
) -> None:
    FlowMatchEulerDiscreteScheduler(**settings).save_pretrained(tmp_path / "scheduler")
    graph = text_to_image(files.model_copy(update={"base": tmp_path}), PROMPT, 7, "x.safetensors")
    found = graph["shift"]
    assert {"class_type": found["class_type"]} | found["inputs"] == node | {"model": ["transformer", 0]}


def test_a_folder_has_no_workflow_for_a_file_that_it_does_not_hold(files: ModelFiles, tmp_path: Path) -> None:
    export(files, str(tmp_path / "out"), "folder", [])
    assert not (tmp_path / "out" / "workflow.json").exists()


def test_a_registered_model_is_exported_with_a_card_that_names_every_metric(
    finished: Outcome, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert finished.registered
    version = f"models:/{finished.registered.name}/{finished.registered.version}"
    with pytest.raises(SystemExit) as ended:
        run_pipeline.main(["export", version, "--to", str(out), "--format", "fp8"])
    assert not ended.value.code
    assert "licence of the base model" in capsys.readouterr().out
    card, report = (out / "README.md").read_text(), load_report(place.mlflow_uri, version)
    assert report
    assert report.metrics
    for name, row in report.metrics.items():
        assert f"| {name}" in card
        assert f"{row.lower:+.4f} to {row.upper:+.4f}" in card
    assert report.provenance.hashes["transformer"] in card
    assert "jitter: 4" in card
    assert (out / "pictures" / "before" / "0000.png").exists()
    text = Image.open(out / "workflow.png").text
    assert json.loads(text["workflow"]) == json.loads((out / "workflow.json").read_text())
    (weights,) = out.glob("*.safetensors")
    assert json.loads(text["prompt"])["transformer"]["inputs"]["unet_name"] == weights.name
    assert json.loads(text["prompt"])["sampler"]["inputs"]["seed"] == 0


def test_a_version_whose_run_has_no_report_is_exported_without_one(
    finished: Outcome, place: Place, tmp_path: Path
) -> None:
    client = MlflowClient(place.mlflow_uri)
    assert finished.registered
    made = client.get_model_version(finished.registered.name, finished.registered.version)
    tracked = open_run(place.mlflow_uri, place.mlflow_artifacts_uri, "no-report", finished.record.config)
    version = client.create_model_version(made.name, made.source, tracked.run_id).version
    assert load_report(place.mlflow_uri, f"{made.name}/{version}") is None
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as ended:
        run_pipeline.main(["export", f"models:/{made.name}/{version}", "--to", str(out)])
    assert not ended.value.code
    assert "held-out prompts" not in (out / "README.md").read_text()


def test_pictures_that_cannot_be_drawn_take_no_weights_with_them(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Iterator[Path]:
        (tmp_path / "started").touch()
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("srpo.export.write_pictures", fail)
    with pytest.warns(UserWarning, match="the weights are exported without pictures, whose drawing failed: no room"):
        export(files, str(tmp_path / "out"), "transformer", [], prompts=[PROMPT])
    assert (tmp_path / "started").exists()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "config.json", "diffusion_pytorch_model.safetensors", "workflow.json"}
    assert "pictures" not in (tmp_path / "out" / "README.md").read_text()


def test_an_empty_prompt_asks_for_no_pictures(finished: Outcome, place: Place, tmp_path: Path) -> None:
    assert finished.registered
    version = f"models:/{finished.registered.name}/{finished.registered.version}"
    with pytest.raises(SystemExit) as ended:
        run_pipeline.main(["export", version, "--to", str(tmp_path / "out"), "--prompts", ""])
    assert not ended.value.code
    assert not (tmp_path / "out" / "pictures").exists()


def test_a_merged_transformer_is_gone_before_the_next_model_is_loaded(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged = []

    def load(*arguments: Any) -> Any:
        model = load_model(*arguments)
        model.transformer.add_adapter(PeftConfig(target_modules=["to_q"]))
        merged.append(weakref.ref(model.transformer))
        return model

    def write(*_: object) -> None:
        assert merged and merged[0]() is None

    monkeypatch.setattr("srpo.export.load_model", load)
    monkeypatch.setattr("srpo.export.adapter_file", lambda _: Path("adapter"))
    monkeypatch.setattr("srpo.export.write_bf16", write)
    export(files, str(tmp_path / "out"), "transformer", [])
    assert merged


def test_a_disk_that_is_too_small_is_told_before_the_work(
    files: ModelFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ConfigError, match=r"has 0\.0 GiB free, but the export may take"):
        export(files, str(tmp_path / "out"), "transformer", [])
    export(files, str(tmp_path / "linked"), "folder", [])  # which writes nothing anew


def test_an_adapter_is_exported_alone_or_merged(job: TrainJob, tmp_path: Path) -> None:
    """The merged transformer computes what base and adapter compute together."""
    lora = LoraConfig(rank=4, alpha=8)
    train = job.config.train.model_copy(update={"lora": lora, "learning_rate": 1e-2, "num_updates": 2})
    config = job.config.model_copy(update={"train": train})
    trained = run(job.model_copy(update={"config": config, "output_dir": str(tmp_path / "run")}))
    files = ModelFiles(
        reference="models:/tiny/1",
        model=job.config.model,
        base=job.weights.model.path,
        transformer=trained.transformer.path,
        base_sha256=job.weights.model.sha256,
        transformer_sha256=trained.transformer.sha256,
        sampling=Sampling(num_steps=2),
    )
    export(files, str(tmp_path / "lora"), "lora", [])
    own, exported = (load_model(files.model, files.base, path) for path in (files.transformer, tmp_path / "lora"))
    save_file(load_file(tmp_path / "lora" / ADAPTER), tmp_path / "bare.safetensors")  # without what it says of alpha
    bare = load_model(files.model, files.base, tmp_path / "bare.safetensors")
    blank, noise = own.blank_embeddings(1, 12), torch.randn(1, *own.latent_shape(32, 32))
    with torch.no_grad():
        expected, *found = (model.velocity(noise, torch.ones(1), blank, 3.5) for model in (own, exported, bare))
    for velocity in found:
        torch.testing.assert_close(velocity, expected)
    export(files, str(tmp_path / "folder"), "folder", [])
    pipeline = FluxPipeline.from_pretrained(tmp_path / "folder", torch_dtype=torch.float32)
    merged, adapted = pipeline.transformer.state_dict(), load_model(files.model, files.base, files.transformer)
    base = load_model(files.model, files.base).transformer.state_dict()
    assert merged.keys() == base.keys()
    layer = adapted.transformer.transformer_blocks[0].attn.to_q
    difference = layer.lora_B["default_0"].weight @ layer.lora_A["default_0"].weight * layer.scaling["default_0"]
    name = "transformer_blocks.0.attn.to_q.weight"
    torch.testing.assert_close(merged[name], base[name] + difference.detach())
    assert difference.abs().max() > 1e-4
    with pytest.raises(ConfigError, match="is no adapter"):
        export(files.model_copy(update={"transformer": None}), str(tmp_path / "none"), "lora", [])
