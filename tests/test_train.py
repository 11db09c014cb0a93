"""The loop on real (untrained) models: a stop anywhere is invisible after resuming, and what it refuses."""

import errno
import json
import os
import runpy
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torchvision.io import read_image

from srpo.artifacts import Trained, TrainJob
from srpo.batches import Batches
from srpo.config import Bound, RunConfig, TrainConfig
from srpo.draws import Draw
from srpo.durable.checkpoints import CheckpointCopies
from srpo.errors import EXIT_PERMANENT, EXIT_RETRY, ConfigError, PreemptedError, TrainingStoppedError
from srpo.held_out import HeldOut
from srpo.prompts import embed_prompts
from srpo.record import HELD_OUT, Record, read_journal
from srpo.rollout import Rollout
from srpo.same_run import refuse_other_settings
from srpo.train import main, reproducible, train
from srpo.trainer import Trainer
from tests.jobs import assert_same_weights, killed, place, run, weights_of, with_rollout


def test_a_run_leaves_everything_promised(job: TrainJob, whole: Path, flux_folder: Path) -> None:
    metrics, measured = read_journal(whole / "metrics.jsonl"), read_journal(whole / "heldout.jsonl")
    assert [entry["update"] for entry in metrics] == [1, 2, 3, 4, 5, 6]
    assert [entry["update"] for entry in measured] == [0, 2, 4, 6]
    names = {f"{branch}/{key}" for branch in ("denoise", "inversion") for key in ("loss", "relative", "reward")}
    names |= {f"{branch}/{key}" for branch in ("denoise", "inversion") for key in ("sigma_from", "sigma_to")}
    names |= {"loss", "reward", "grad_norm", "images_per_second", "learning_rate"}
    names |= {f"seconds/{part}" for part in ("rollout", "gradient", "rest")}
    assert names <= set(metrics[0])
    assert metrics[0]["learning_rate"] > metrics[-1]["learning_rate"], "the cosine falls"
    assert len(list((whole / "samples").glob("*.png"))) == 4
    assert measured[0]["drift"] == 0 and all(entry["drift"] > 0 for entry in measured[1:])
    result = Trained.model_validate_json((whole / "result.json").read_text())
    relative = {entry["update"]: entry["relative"] for entry in measured[1:]}
    assert relative[result.best_update] == max(relative.values())
    best = load_file(result.transformer.path / "diffusion_pytorch_model.safetensors")
    base = load_file(flux_folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert best.keys() == base.keys()
    assert any(not torch.equal(best[name], base[name]) for name in base), "nothing was trained"


def test_deterministic_algorithms_write_no_buffer_twice() -> None:
    """torch fills what it has only reserved, each time, unless it is told not to."""
    memory: Any = torch.utils.deterministic
    assert memory.fill_uninitialized_memory
    with reproducible(TrainConfig(deterministic=True)):
        assert torch.are_deterministic_algorithms_enabled()
        assert not memory.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert memory.fill_uninitialized_memory


@pytest.mark.parametrize(("attention", "warns"), [(None, False), ("native", False), ("_native_cudnn", True)])
def test_on_a_gpu_attention_goes_backward_deterministically(
    attention: str | None, warns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's kernels do only where it would raise, not warn; cuDNN's cannot, and would not be found."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with reproducible(TrainConfig(attention=attention)):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() is warns


def test_an_operation_that_is_not_deterministic_is_named() -> None:
    with (
        pytest.raises(ConfigError, match=r"^put_ does not have .* on this device; set train\.deterministic to false"),
        reproducible(TrainConfig()),
    ):
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
    with pytest.raises(RuntimeError, match="another"), reproducible(TrainConfig()):
        raise RuntimeError("another")


@pytest.mark.parametrize(("update", "moment"), [(1, "log"), (4, "log"), (4, "watch"), (4, "save")])
def test_a_stop_anywhere_in_an_update_is_invisible_after_resuming(
    job: TrainJob, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: int, moment: str
) -> None:
    with killed(monkeypatch, update, moment):
        run(place(job, tmp_path))
    run(place(job, tmp_path))
    assert_same_weights(whole, tmp_path, 6)
    for journal in ("metrics.jsonl", "heldout.jsonl"):
        assert timeless(tmp_path / journal) == timeless(whole / journal)


@pytest.mark.parametrize(("update", "reuse"), [(1, 1), (4, 1), (4, 2)])
def test_told_to_stop_within_an_update_it_saves_the_one_before_and_goes_on_bit_for_bit(
    job: TrainJob, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: int, reuse: int
) -> None:
    """With gradients of one micro-batch, whose draws and rotated rollouts are those of an update that never was."""
    job, latents = with_rollout(job, reuse=reuse), Batches.clean_latents
    if reuse > 1:
        run(place(job, whole := tmp_path / "whole"))

    def tell(batches: Batches, draw: Draw, now: int) -> Rollout:
        if now == update:
            signal.raise_signal(signal.SIGTERM)
        return latents(batches, draw, now)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "clean_latents", tell)
        with pytest.raises(
            PreemptedError, match="after update 3, which is saved" if update > 1 else "the first update;"
        ):
            run(place(job, told := tmp_path / "told"))
    assert [entry["update"] for entry in read_journal(told / "metrics.jsonl")] == list(range(1, update))
    run(place(job, told))
    assert_same_weights(whole, told, 6)
    for journal in ("metrics.jsonl", "heldout.jsonl"):
        assert timeless(told / journal) == timeless(whole / journal)


@pytest.mark.parametrize("update", [0, 4, 6])
def test_told_to_stop_within_a_measurement_it_saves_the_update_and_measures_it_first_when_it_goes_on(
    job: TrainJob, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: int
) -> None:
    """Drawing takes minutes, and less is left until the kill."""
    evaluation = job.config.evaluation.model_copy(update={"batch_size": 2})
    job = job.model_copy(update={"config": job.config.model_copy(update={"evaluation": evaluation})})
    drawn: list[int] = []
    draw, measured = HeldOut._batch, update // 2

    def tell(self: HeldOut, model: Any, indices: list[int]) -> Any:
        drawn.extend(indices)
        if len(drawn) == 4 * measured + 2:  # the first half of a set of four
            signal.raise_signal(signal.SIGTERM)
        return draw(self, model, indices)

    with monkeypatch.context() as patch:
        patch.setattr(HeldOut, "_batch", tell)
        with pytest.raises(PreemptedError, match=f"after update {update}, which" if update else "the first update;"):
            run(place(job, tmp_path))
    assert len(drawn) == 4 * measured + 2, "it went on drawing"
    assert [entry["update"] for entry in read_journal(tmp_path / "heldout.jsonl")] == list(range(0, update, 2))
    run(place(job, tmp_path))
    assert_same_weights(whole, tmp_path, 6)
    assert timeless(tmp_path / "metrics.jsonl") == timeless(whole / "metrics.jsonl")
    for again, expected in zip(timeless(tmp_path / HELD_OUT), timeless(whole / HELD_OUT), strict=True):
        assert again.pop("violations") == expected.pop("violations")
        assert again == pytest.approx(expected, abs=1e-5)  # drawn in batches of another size


def test_the_time_that_saving_takes_is_taken_off_that_for_the_upload(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[float] = []
    step, save = Trainer.step, Trainer.save
    monkeypatch.setattr(Trainer, "step", lambda trainer: signal.raise_signal(signal.SIGTERM) or step(trainer))
    monkeypatch.setattr(Trainer, "save", lambda trainer, own: time.sleep(1.0) or save(trainer, own))
    monkeypatch.setattr(CheckpointCopies, "wait", lambda _, seconds: left.append(seconds) or "")
    with pytest.raises(PreemptedError, match="after update 1, which is saved"):
        run(place(job, tmp_path))
    assert 0 < left[0] < job.config.storage.grace_s - 1.0


def timeless(journal: Path) -> list[dict[str, object]]:
    """A journal without what depends on the clock."""
    clocked = ("seconds/", "images_per_second")
    return [{k: v for k, v in entry.items() if not k.startswith(clocked)} for entry in read_journal(journal)]


def test_what_a_kill_has_left_of_a_checkpoint_goes_when_it_goes_on(job: TrainJob, tmp_path: Path) -> None:
    run(place(job, tmp_path, num_updates=2, schedule="constant"))
    (left := tmp_path / "checkpoints" / ".update-000004.partial").mkdir()
    run(place(job, tmp_path, num_updates=2, schedule="constant"))
    assert not left.exists()


def test_no_run_goes_on_without_the_base_that_it_is_judged_by(job: TrainJob, tmp_path: Path) -> None:
    run(place(job, tmp_path, num_updates=2, schedule="constant"))
    for file, problem in (
        ("samples/base.safetensors", r"base\.safetensors is gone, the base model's images"),
        (HELD_OUT, r"heldout\.jsonl has not, or no longer, what was measured of the base"),
    ):
        (tmp_path / file).unlink()
        with pytest.raises(ConfigError, match=problem):
            run(place(job, tmp_path, num_updates=4, schedule="constant"))


def test_what_another_srpo_wrote_is_refused_and_not_tried_again(
    job: TrainJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(placed := place(job, tmp_path, num_updates=1, schedule="constant"))
    state = tmp_path / "checkpoints" / "update-000001" / "state.json"
    content = json.loads(state.read_text())
    state.write_text(json.dumps(content | {"config": content["config"] | {"later": 1}}))
    with pytest.raises(ConfigError, match=r"update-000001 was not written by this version of srpo \(later: Extra"):
        run(placed)
    (path := tmp_path / "job.json").write_text(json.dumps(json.loads(job.model_dump_json()) | {"later": 1}))
    assert main(path) == EXIT_PERMANENT
    assert "job.json was not written by this version of srpo (later: Extra" in capsys.readouterr().err
    assert json.loads((tmp_path / "error.json").read_text())["exit_code"] == EXIT_PERMANENT


@pytest.mark.parametrize("arguments", [[], ["nowhere/job.json"]])
def test_a_job_file_that_is_not_there_is_told(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    monkeypatch.delitem(sys.modules, "srpo.train")
    with pytest.raises(SystemExit, match=f"^{EXIT_PERMANENT}$"):
        runpy.run_module("srpo.train", run_name="__main__")
    said = capsys.readouterr().err
    assert said.startswith("give the job file of a prepared training") and said.count("\n") == 1


def test_a_run_with_other_settings_is_refused_before_any_model_is_loaded(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(place(job, tmp_path, num_updates=1, schedule="constant"))
    monkeypatch.delattr("srpo.trainer.trained_model")
    with pytest.raises(ConfigError, match=r"made with other settings in train\.learning_rate"):
        run(place(job, tmp_path, num_updates=1, schedule="constant", learning_rate=1.0))


def test_an_update_is_the_same_in_one_batch_or_accumulated(job: TrainJob, tmp_path: Path) -> None:
    for name, size in (("batch", 4), ("accumulated", 1)):
        parts = {"batch_size": size, "accumulation": 4 // size}
        run(place(job, tmp_path / name, num_updates=1, schedule="constant", **parts))
    (batch,), (accumulated,) = (timeless(tmp_path / name / "metrics.jsonl") for name in ("batch", "accumulated"))
    assert batch.keys() == accumulated.keys()
    for name, value in batch.items():
        assert accumulated[name] == pytest.approx(value, rel=1e-5), name


def test_a_non_finite_gradient_stops_before_the_step(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, step = Trainer.reduce_and_clip, Trainer.step
    stepped: list[int] = []

    def poison(self: Trainer) -> float:
        if self.update == 4:
            self.parameters[0].grad.fill_(float("nan"))
        return clip(self)

    monkeypatch.setattr(Trainer, "reduce_and_clip", poison)
    monkeypatch.setattr(Trainer, "step", lambda trainer: stepped.append(trainer.update) or step(trainer))
    with pytest.raises(TrainingStoppedError, match=r"update 4: grad_norm not finite.*update-000002"):
        run(place(job, tmp_path))
    assert stepped == [entry["update"] for entry in read_journal(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    kept = weights_of(tmp_path, 2)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.values())


def test_an_error_is_told_before_anything_waits(job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other processes end at once, and soon after the launcher kills one that still waits for MLflow or S3."""
    told: list[bool] = []
    waits: list[float] = []
    leave = CheckpointCopies.__exit__

    def let_go(self: CheckpointCopies, *error: object) -> None:
        told.append((tmp_path / "error.json").exists())
        leave(self, *error)

    monkeypatch.setattr(CheckpointCopies, "__exit__", let_go)
    monkeypatch.setattr(Record, "close", lambda _, seconds: waits.append(seconds))
    monkeypatch.setattr(Trainer, "reduce_and_clip", lambda _: float("nan"))
    with pytest.raises(TrainingStoppedError, match="grad_norm not finite"):
        run(place(job, tmp_path))
    assert (told, waits) == ([True], [0])


@pytest.mark.parametrize("rank", ["0", "1"])
def test_too_little_memory_is_not_tried_again(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: str
) -> None:
    """It is said by whichever process has too little."""

    def fill(*_: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."
        )

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("srpo.train.train", fill)
    monkeypatch.setattr("srpo.train.make_accelerator", lambda *_: None)
    path = tmp_path / "job.json"
    path.write_text(place(job, tmp_path).model_dump_json())
    assert main(path) == EXIT_PERMANENT
    said = json.loads((tmp_path / "error.json").read_text())
    assert (said["kind"], said["exit_code"]) == ("GpuMemoryError", EXIT_PERMANENT)
    assert "(CUDA out of memory. Tried to allocate 2.00 GiB); take a preset" in said["message"]
    assert said["message"] in capsys.readouterr().err


def test_a_disk_that_stays_full_is_told_by_exit_code_with_what_was_full(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not only the output folder's: processes talk over files in /dev/shm."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/dev/shm/nccl-1")

    for name in ("train", "write_atomic"):
        monkeypatch.setattr(f"srpo.train.{name}", fail)
    monkeypatch.setattr("srpo.train.make_accelerator", lambda *_: None)
    path = tmp_path / "job.json"
    path.write_text(place(job, tmp_path).model_dump_json())
    assert main(path) == EXIT_RETRY
    said = f"no space left for the training in {tmp_path} ([Errno 28] No space left on device: '/dev/shm/nccl-1'); free"
    assert said in capsys.readouterr().err


def test_a_gradient_above_the_norm_is_scaled_down_to_it(
    job: TrainJob, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, scaled = Trainer.reduce_and_clip, list[float]()

    def measure(self: Trainer) -> float:
        before = clip(self)
        gradients = [each.grad.flatten() for each in self.parameters if each.grad is not None]
        scaled.append(float(torch.cat(gradients).norm()))
        return before

    monkeypatch.setattr(Trainer, "reduce_and_clip", measure)
    run(place(job, tmp_path, num_updates=1, schedule="constant", max_grad_norm=1e-3))
    (entry,), first = read_journal(tmp_path / "metrics.jsonl"), read_journal(whole / "metrics.jsonl")[0]
    assert entry["grad_norm"] == pytest.approx(first["grad_norm"]) and entry["grad_norm"] > 2e-3
    assert scaled == [pytest.approx(1e-3, rel=1e-2)]


def test_the_rate_warms_up_linearly(job: TrainJob, tmp_path: Path) -> None:
    """From 0 for the first update."""
    run(place(job, tmp_path, num_updates=3, schedule="constant_with_warmup", num_warmup_updates=2))
    rates = [entry["learning_rate"] for entry in read_journal(tmp_path / "metrics.jsonl")]
    assert rates == pytest.approx([0.0, 0.5e-4, 1e-4])


def test_more_updates_may_follow_where_the_rate_does_not_depend_on_them(job: TrainJob, tmp_path: Path) -> None:
    run(place(job, tmp_path, num_updates=2, schedule="constant"))
    assert run(place(job, tmp_path, num_updates=4, schedule="constant")).num_updates == 4
    with pytest.raises(ConfigError, match="other settings in train"):
        run(place(job, tmp_path, num_updates=4, schedule="cosine"))


@pytest.mark.parametrize(
    ("changed", "rollout", "images", "goes_on"),
    [
        ({"num_processes": 2, "accumulation": 1}, {}, None, True),
        ({"num_processes": 4, "batch_size": 1, "accumulation": 1, "sharding": "fsdp2"}, {}, None, True),
        ({"num_processes": 2}, {}, None, False),
        ({"num_processes": 2, "accumulation": 1}, {"reuse": 2}, None, False),
        ({"num_processes": 2, "accumulation": 1}, {}, {"source": "photos"}, True),
        ({"num_processes": 2, "batch_size": 1}, {}, {"source": "photos"}, False),
        ({"learning_rate": 1.0}, {}, None, False),
        ({"gradient_checkpointing": "full", "vae_checkpointing": True, "attention": "native"}, {}, None, True),
        ({"deterministic": False}, {}, None, True),
    ],
)
def test_a_run_goes_on_with_what_the_same_images_are_spread_over(
    job: TrainJob, changed: dict[str, Any], rollout: dict[str, Any], images: dict[str, Any] | None, goes_on: bool
) -> None:
    began = RunConfig.model_validate(job.config.model_dump() | {"rollout": rollout, "images": images})
    now = RunConfig.model_validate(began.model_dump() | {"train": began.train.model_dump() | changed})
    with nullcontext() if goes_on else pytest.raises(ConfigError, match="other settings in train"):
        refuse_other_settings(Path("run"), now, began)


CLIP_SCORE = {"family": "clip_score", "source": "clip"}
WATCHED = [{"metric": "clip", "min_change": 0.0}]


@pytest.mark.parametrize(
    ("section", "changed", "goes_on"),
    [
        ("align", {"together": False}, True),
        ("align", {"shift": 1.0}, False),
        ("monitor", {"num_images": 6}, False),
        ("monitor", {"bounds": [{"metric": "spread", "min_ratio": 0.5}]}, False),
        ("monitor", {"watch": "reward"}, False),
        ("monitor", {"every": 4, "patience": 3, "stop_after_damaged": None}, True),
        ("evaluation", {"num_steps": 4}, False),
        ("evaluation", {"guidance": None}, False),
        ("evaluation", {"grid_periods": [8]}, False),
        ("evaluation", {"num_prompts": 9, "scores": {"other": CLIP_SCORE}}, True),
        ("evaluation", {"scores": {"clip": {**CLIP_SCORE, "positive": ["Vivid"]}}}, False),
    ],
)
def test_a_run_goes_on_only_with_measurements_that_can_be_compared(
    job: TrainJob, section: str, changed: dict[str, Any], goes_on: bool
) -> None:
    began = RunConfig.model_validate(job.config.model_dump() | {"evaluation": {"scores": {"clip": CLIP_SCORE}}})
    if "scores" in changed and not goes_on:
        watching = {"monitor": began.monitor.model_dump() | {"bounds": WATCHED}}
        began = RunConfig.model_validate(began.model_dump() | watching)
    before = began.model_dump()
    now = RunConfig.model_validate(before | {section: before[section] | changed})
    key = f"{section}.{next(iter(changed))}"
    with nullcontext() if goes_on else pytest.raises(ConfigError, match=rf"other settings in {key}[.;]"):
        refuse_other_settings(Path("run"), now, began)


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"gradient_checkpointing": "full"}])
def test_bf16_and_recomputation_train_the_same_way(
    job: TrainJob, whole: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    job = place(job, tmp_path, num_updates=2, schedule="constant", gradient_checkpointing="none")
    plain, changed = place(job, tmp_path / "plain"), place(job, tmp_path / "changed", **settings)
    for each in (plain, changed):
        AcceleratorState._reset_state(reset_partial_state=True)  # precision is fixed once per process
        with reproducible(each.config.train):
            train(
                each, Accelerator(cpu=True, mixed_precision="bf16" if each.config.train.precision == "bf16" else "no")
            )
    AcceleratorState._reset_state(reset_partial_state=True)
    first, second = (read_journal(tmp_path / name / "metrics.jsonl")[0] for name in ("plain", "changed"))
    tolerance = 0.05 if "precision" in settings else 1e-4
    assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=tolerance)
    assert all(tensor.dtype == torch.float32 for tensor in weights_of(tmp_path / "changed", 2).values())


def test_a_run_goes_on_only_with_the_words_file_it_began_with(job: TrainJob, tmp_path: Path) -> None:
    words = tmp_path / "words.csv"
    words.write_text("first_update,last_update,positive\n1,2,Bright\n")
    preference = job.config.preference.model_copy(update={"words_file": str(words)})
    worded = job.model_copy(update={"config": job.config.model_copy(update={"preference": preference})})
    run(place(worded, tmp_path / "run", num_updates=2, schedule="constant"))
    words.write_text("first_update,last_update,positive\n1,2,Dark\n")
    with pytest.raises(ConfigError, match=r"another content of preference.words_file"):
        run(place(worded, tmp_path / "run", num_updates=4, schedule="constant"))


def test_a_run_goes_on_only_with_the_prompts_and_weights_it_began_with(job: TrainJob, tmp_path: Path) -> None:
    """Files of the same names; where the embeddings of the texts lie does not matter."""
    run(place(job, tmp_path / "run", num_updates=2, schedule="constant"))
    config, more = job.config, {"num_updates": 4, "schedule": "constant"}

    def embedded(name: str, train: str, held_out: str) -> TrainJob:
        files = {"train": tmp_path / f"{name}-train.txt", "held_out": tmp_path / f"{name}-held-out.txt"}
        for part, text in (("train", train), ("held_out", held_out)):
            files[part].write_text(text)
        prompts = config.prompts.model_copy(update={part: str(path) for part, path in files.items()})
        return job.model_copy(update={"prompts": embed_prompts(config.model, prompts, job.weights, tmp_path / name)})

    train, held_out = (Path(path).read_text() for path in (config.prompts.train, config.prompts.held_out))
    file = job.weights.reward.files[0].model_copy(update={"sha256": "0" * 64})
    reward = job.weights.reward.model_copy(update={"files": (file, *job.weights.reward.files[1:])})
    for other, problem in (
        (embedded("a", f"{train}\na ship", held_out), "prompts.train"),
        (embedded("b", train, held_out.replace("cow", "bull")), "prompts.held_out"),
        (job.model_copy(update={"weights": job.weights.model_copy(update={"reward": reward})}), "the reward weights"),
    ):
        with pytest.raises(ConfigError, match=f"another content of {problem}; bring it back"):
            run(place(other, tmp_path / "run", **more))
    assert run(place(embedded("c", train, held_out), tmp_path / "run", **more)).num_updates == 4


def guarded(job: TrainJob, output_dir: Path, **monitor: object) -> TrainJob:
    settings = job.config.monitor.model_copy(update=monitor)
    return place(job, output_dir).model_copy(
        update={"config": job.config.model_copy(update={"monitor": settings}), "output_dir": str(output_dir)}
    )


def test_a_collapse_ends_training_and_without_the_rule_it_goes_on_as_if_nothing_had_been(
    job: TrainJob, whole: Path, tmp_path: Path
) -> None:
    never_held = (Bound(metric="luminance", max_change=-1),)
    strict = guarded(job, tmp_path, bounds=never_held, stop_after_damaged=2)
    for _ in range(2):  # the second call finds the run stopped and trains no further
        result = run(strict)
        assert (result.num_updates, result.best_update) == (4, 2)
        assert result.stopped is not None
        assert result.stopped.startswith("2 measurements in a row the model was damaged: luminance changed by")
        assert [entry["update"] for entry in read_journal(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4]
    assert run(guarded(job, tmp_path, bounds=never_held, stop_after_damaged=None)).stopped is None
    assert_same_weights(whole, tmp_path, 6)


def test_a_bound_on_a_ratio_that_the_base_has_not_ends_training_at_once(
    job: TrainJob, whole: Path, tmp_path: Path
) -> None:
    base = read_journal(whole / "heldout.jsonl")[0]
    metric = min(("relative", "reward"), key=lambda name: base[name])
    assert base[metric] < 0
    with pytest.raises(ConfigError, match=f"monitor.bounds: {metric} has no ratio to the base's"):
        run(guarded(job, tmp_path, bounds=(Bound(metric=metric, min_ratio=0.5),)))
    assert read_journal(tmp_path / "metrics.jsonl") == []


def test_drift_is_the_distance_from_the_base_models_own_images(job: TrainJob, whole: Path) -> None:
    """The strip shows both rows; their distance, on as many images as it shows, is in the order of the drift."""
    size, padding = job.config.model.height, 1
    strip = read_image(str(whole / "samples" / "update-000006.png")).double() / 255
    rows = strip[:, padding:].unfold(1, size, size + padding).unfold(2, size, size + padding)[:, :2]
    first = read_image(str(whole / "samples" / "update-000000.png")).double() / 255
    assert torch.equal(strip[:, : first.shape[1]], first)
    assert rows.shape[1] == 2
    measured = read_journal(whole / "heldout.jsonl")[-1]["drift"]
    shown = (rows[:, 1] - rows[:, 0]).square().mean((0, -2, -1)).sqrt()
    assert 0.5 * float(shown.min()) < measured < 2 * float(shown.max())
