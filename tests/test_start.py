"""Training that goes on from an earlier one: its pictures before the first update are the earlier model's."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from srpo.artifacts import Trained, TrainJob
from srpo.config import Bound, LoraConfig
from srpo.errors import ConfigError
from srpo.models import load_model
from srpo.models.weights import adapter_file
from srpo.record import HELD_OUT, read_journal, tracked
from srpo.start import find_start, merge_adapter
from srpo.tracking import TrackedRun
from steps.train import train
from tests.jobs import place, run

SHORT = {"num_updates": 2, "learning_rate": 1e-2}
LORA = LoraConfig(rank=4)


def strip(folder: Path, update: int) -> Tensor:
    return pil_to_tensor(Image.open(folder / "samples" / f"update-{update:06d}.png"))


def starting_from(job: TrainJob, source: Path | str, output_dir: Path, **settings: object) -> TrainJob:
    """The job with `train.start`, resolved as the train step does."""
    placed = place(job, output_dir, start=str(source), **settings)
    return placed.model_copy(update={"start": find_start(placed.config, None, placed.weights.model)})


@pytest.fixture(scope="module")
def full(job: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(place(job, tmp_path_factory.mktemp("start") / "full", **SHORT))


@pytest.fixture(scope="module")
def adapter(job: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return run(place(job, tmp_path_factory.mktemp("start") / "lora", lora=LORA, **SHORT))


@pytest.mark.parametrize(
    ("first", "lora"), [("full", None), ("adapter", LORA), ("adapter", None)], ids=["full", "lora", "merged"]
)
def test_its_pictures_at_update_0_are_those_of_what_it_starts_from(
    job: TrainJob, first: str, lora: LoraConfig | None, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    earlier: Trained = request.getfixturevalue(first)
    source = earlier.transformer.path
    second = run(starting_from(job, source, tmp_path / "second", lora=lora, **SHORT))
    base, last = strip(Path(earlier.output_dir), 0), strip(Path(earlier.output_dir), earlier.best_update)
    begun = strip(tmp_path / "second", 0)
    height = base.shape[1] - 1  # of a picture and one line of padding; the strip shows the base's above
    assert torch.equal(begun[:, : height + 1], base)
    assert begun.shape == last.shape
    assert (last.int() - begun.int()).abs().max() <= 1  # merging adds the same numbers in another order
    assert (base.int() - begun[:, height:].int()).abs().max() > 1
    assert (adapter_file(second.transformer.path) is not None) == (lora is not None)
    _, start, trained = read_journal(tmp_path / "second" / HELD_OUT)
    assert start["drift"] > 0 and trained["drift"] != start["drift"], "the optimizer has other parameters"


def test_it_is_judged_by_the_base_and_not_by_what_it_starts_from(job: TrainJob, full: Trained, tmp_path: Path) -> None:
    """Else each generation might lose as much again. What it starts from is no checkpoint that it could end with."""
    base, *_, last = read_journal(Path(full.output_dir) / HELD_OUT)
    bounds = (Bound(metric="drift", max_change=0.9 * last["drift"]),)
    monitor = job.config.monitor.model_copy(update={"bounds": bounds, "stop_after_damaged": 1})
    job = job.model_copy(update={"config": job.config.model_copy(update={"monitor": monitor})})
    gentle = {"num_updates": 4, "learning_rate": 1e-5}
    result = run(starting_from(job, full.transformer.path, tmp_path / "second", **gentle))
    first, start, after = read_journal(tmp_path / "second" / HELD_OUT)
    assert first == base | {"of": "base"}
    assert start | {"violations": []} == last | {"update": 0}
    assert {*tracked(first, "held_out")}.isdisjoint(tracked(start, "held_out")), "MLflow keeps both of step 0"
    assert tracked(first, "held_out")["held_out_base/luminance"] == base["luminance"]
    assert start["violations"] and after["violations"]
    assert (result.best_update, result.num_updates) == (2, 2)
    assert result.stopped and "1 measurement in a row the model was damaged: drift changed by" in result.stopped


def test_a_merged_adapter_computes_the_same_and_trains_every_weight(job: TrainJob, adapter: Trained) -> None:
    config, base = job.config.model, job.weights.model.path
    model = load_model(config, base, adapter.transformer.path)
    layer = model.transformer.transformer_blocks[0].attn.to_q
    change = layer.lora_B["default_0"].weight @ layer.lora_A["default_0"].weight * layer.scaling["default_0"]
    change = change.detach().clone()
    merge_adapter(model.transformer)
    bare = load_model(config, base).transformer.state_dict()
    merged = model.transformer.state_dict()
    assert merged.keys() == bare.keys()
    name = "transformer_blocks.0.attn.to_q.weight"
    torch.testing.assert_close(merged[name], bare[name] + change)
    assert change.abs().max() > 1e-4
    assert all(parameter.requires_grad for parameter in model.transformer.parameters())


def test_a_run_that_was_stopped_goes_on_from_its_own_checkpoint(job: TrainJob, full: Trained, tmp_path: Path) -> None:
    """Four updates at once, or two and then two more after a new start of the process, end in the same weights."""
    source, settings = full.transformer.path, {"learning_rate": 1e-4, "schedule": "constant"}
    whole = run(starting_from(job, source, tmp_path / "whole", num_updates=4, **settings))
    run(starting_from(job, source, tmp_path / "parts", num_updates=2, **settings))
    parts = run(starting_from(job, source, tmp_path / "parts", num_updates=4, **settings))
    assert parts.transformer.sha256 == whole.transformer.sha256


def test_a_step_that_goes_on_needs_not_what_it_began_from(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be gone by then; a job that was made so says so where the checkpoint is gone too."""
    begun = place(job, tmp_path, start=str(tmp_path / "gone"))
    launched: list[TrainJob] = []
    monkeypatch.setattr("steps.train.own_call", lambda _: nullcontext())
    monkeypatch.setattr("steps.train.begin", lambda *_: None)
    monkeypatch.setattr("steps.train.launch_training", launched.append)
    arguments = (begun.config, begun.weights, begun.prompts, str(tmp_path), TrackedRun(uri="", run_id="1"))
    with pytest.raises(ConfigError, match="nothing to start from"):
        train.entrypoint(*arguments)
    (tmp_path / "checkpoints" / "update-000001").mkdir(parents=True)
    train.entrypoint(*arguments)
    (tmp_path / "checkpoints" / "update-000001").rmdir()
    assert launched[0].start is None
    with pytest.raises(ConfigError, match="has no checkpoint any more, and this job does not say where"):
        run(launched[0])


def test_what_does_not_go_together_is_told(job: TrainJob, full: Trained, adapter: Trained, tmp_path: Path) -> None:
    whole, change = full.transformer.path, adapter.transformer.path
    for source, settings, problem in (
        (whole, {"lora": LORA}, "is a whole transformer"),
        (change, {"lora": LoraConfig(rank=8)}, "another form than train.lora"),
        (change, {"sharding": "fsdp2", "num_processes": 2}, "sliced training cannot add"),
        ("yesterday's", {}, "nothing to start from; give base, champion"),
        ("models:/srpo/1", {}, "nothing is registered here yet"),
        (job.weights.reward.path, {}, r"holds no diffusion_pytorch_model\.safetensors or model\.safetensors"),
    ):
        with pytest.raises(ConfigError, match=problem):
            starting_from(job, source, tmp_path / "out", **settings)
