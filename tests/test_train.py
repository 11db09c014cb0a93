"""The loop on real (untrained) models: resuming after a kill is invisible, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from srpo.artifacts import Trained, TrainJob, Weights
from srpo.config import RunConfig
from srpo.errors import EXIT_PERMANENT, ConfigError, TrainingStoppedError
from srpo.hub import fetch
from srpo.launch import launch_command, launch_training
from srpo.prompts import embed_prompts
from srpo.record import read_journal
from srpo.train import reproducible, train
from srpo.trainer import Trainer

LINES = [f"a {word} circle on a blue background" for word in ("red", "green", "yellow", "cyan", "purple")]


@pytest.fixture(scope="module")
def job(flux_folder: Path, hps_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    """A job of six updates; `place` gives it an output folder."""
    root = tmp_path_factory.mktemp("job")
    (root / "train.txt").write_text("\n".join(LINES))
    (root / "held_out.txt").write_text("two cats\na dog\na fox")
    config = RunConfig.model_validate(
        {
            "seed": 7,
            "model": {"source": str(flux_folder), "height": 32, "width": 32, "max_sequence_length": 12},
            "reward": {"source": str(hps_folder), "architecture": "tiny.json"},
            "prompts": {"train": str(root / "train.txt"), "held_out": str(root / "held_out.txt")},
            "align": {"num_injections": 2},
            "rollout": {"num_steps": 3},
            "train": {
                "num_updates": 6,
                "batch_size": 2,
                "accumulation": 2,
                "precision": "fp32",
                "learning_rate": 1e-4,
                "schedule": "cosine",
                "save_every": 2,
            },
            "monitor": {"every": 2, "num_images": 4, "strip_images": 2, "bounds": []},
            "evaluation": {"num_steps": 3},
        }
    )
    weights = Weights(model=fetch(config.model.source, "model"), reward=fetch(config.reward.source, "reward"))
    prompts = embed_prompts(config.model, config.prompts, weights, root / "embeddings")
    return TrainJob(config=config, weights=weights, prompts=prompts, output_dir="")


def place(job: TrainJob, output_dir: Path, **train_settings: object) -> TrainJob:
    settings = job.config.train.model_copy(update=train_settings)
    config = job.config.model_copy(update={"train": settings})
    output_dir.mkdir(exist_ok=True)
    return job.model_copy(update={"config": config, "output_dir": str(output_dir)})


def run(job: TrainJob) -> Trained:
    with reproducible(job.config.train):
        return train(job, Accelerator(cpu=True))


def weights_of(output_dir: Path, update: int) -> dict[str, torch.Tensor]:
    return load_file(output_dir / "checkpoints" / f"update-{update:06d}" / "transformer.safetensors")


def assert_same_weights(first: Path, second: Path, update: int) -> None:
    expected, got = weights_of(first, update), weights_of(second, update)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.fixture(scope="module")
def whole(job: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupted."""
    output_dir = tmp_path_factory.mktemp("whole")
    run(place(job, output_dir))
    return output_dir


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
    result = Trained.model_validate_json((whole / "result.json").read_text())
    relative = {entry["update"]: entry["relative"] for entry in measured[1:]}
    assert relative[result.best_update] == max(relative.values())
    best = load_file(result.transformer.path / "diffusion_pytorch_model.safetensors")
    base = load_file(flux_folder / "transformer" / "diffusion_pytorch_model.safetensors")
    assert best.keys() == base.keys()
    assert any(not torch.equal(best[name], base[name]) for name in base), "nothing was trained"


class _KilledError(Exception):
    pass


@pytest.mark.parametrize(("update", "moment"), [(1, "log"), (3, "log"), (4, "log"), (4, "watch"), (4, "save")])
def test_a_stop_anywhere_in_an_update_is_invisible_after_resuming(
    job: TrainJob, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, update: int, moment: str
) -> None:
    original = getattr(Trainer, moment)

    def stop(self: Trainer, *arguments: object) -> None:
        if self.update == update:
            raise _KilledError
        original(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(_KilledError):
        patch.setattr(Trainer, moment, stop)
        run(place(job, tmp_path))
    run(place(job, tmp_path))
    assert_same_weights(whole, tmp_path, 6)
    for journal in ("metrics.jsonl", "heldout.jsonl"):
        assert timeless(tmp_path / journal) == timeless(whole / journal)


def timeless(journal: Path) -> list[dict[str, object]]:
    """A journal without what depends on the clock."""
    clocked = ("seconds/", "images_per_second")
    return [{k: v for k, v in entry.items() if not k.startswith(clocked)} for entry in read_journal(journal)]


def start(job: TrainJob) -> subprocess.Popen[bytes]:
    """The command that people type and the pipeline starts, in a process group of its own."""
    path = Path(job.output_dir) / "job.json"
    path.write_text(job.model_dump_json())
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(launch_command(job.config.train, path), env=environment, start_new_session=True)


def kill_at(job: TrainJob, update: int) -> None:
    """Start the training and `kill -9` it as soon as an update is in its journal."""
    process = start(job)
    journal = Path(job.output_dir) / "metrics.jsonl"
    while process.poll() is None and not any(entry["update"] >= update for entry in read_journal(journal)):
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_kill_9_and_resume_gives_the_same_weights(job: TrainJob, whole: Path, tmp_path: Path) -> None:
    """A run killed twice under accelerate launch, beside the whole one of this process."""
    killed = place(job, tmp_path)
    kill_at(killed, 1)
    kill_at(killed, 3)
    assert start(killed).wait() == 0
    assert_same_weights(whole, tmp_path, 6)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [4.0, 6.0, 6.5, 7.0, 7.5, 8.0, 8.5, 9.0, 10.0])
def test_kill_9_at_any_time(job: TrainJob, tmp_path: Path, seconds: float) -> None:
    """Wherever the clock happens to strike: start-up, rollout, checkpoint, export."""
    whole, killed = place(job, tmp_path / "whole"), place(job, tmp_path / "killed")
    assert start(whole).wait() == 0
    process = start(killed)
    time.sleep(seconds)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert start(killed).wait() == 0
    assert_same_weights(tmp_path / "whole", tmp_path / "killed", 6)


def test_the_launcher_returns_the_result_and_passes_errors_on(job: TrainJob, tmp_path: Path) -> None:
    result = launch_training(place(job, tmp_path, num_updates=2, save_every=2))
    assert result.num_updates == 2
    other = place(job, tmp_path, num_updates=2, save_every=2, learning_rate=1.0)
    with pytest.raises(ConfigError, match="was made with other settings in train; resume with the same"):
        launch_training(other)


def test_a_non_finite_gradient_stops_before_the_step(
    job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = Trainer.reduce_and_clip

    def poison(self: Trainer) -> float:
        if self.update == 4:
            self.parameters[0].grad.fill_(float("nan"))
        return clip(self)

    monkeypatch.setattr(Trainer, "reduce_and_clip", poison)
    with pytest.raises(TrainingStoppedError, match=r"update 4: grad_norm not finite.*update-000002"):
        run(place(job, tmp_path))
    assert [entry["update"] for entry in read_journal(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    kept = weights_of(tmp_path, 2)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in kept.values())


def test_more_updates_may_follow_where_the_rate_does_not_depend_on_them(job: TrainJob, tmp_path: Path) -> None:
    run(place(job, tmp_path, num_updates=2, schedule="constant"))
    assert run(place(job, tmp_path, num_updates=4, schedule="constant")).num_updates == 4
    with pytest.raises(ConfigError, match="other settings in train"):
        run(place(job, tmp_path, num_updates=4, schedule="cosine"))


def test_the_wrong_number_of_processes_is_refused(job: TrainJob, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(place(job, tmp_path, num_processes=2).model_dump_json())
    ended = subprocess.run([sys.executable, "-m", "srpo.train", str(path)], capture_output=True, text=True, check=False)
    assert ended.returncode == EXIT_PERMANENT
    assert "train.num_processes is 2, but 1 were started" in ended.stderr
    assert json.loads((tmp_path / "error.json").read_text())["kind"] == "ConfigError"


@pytest.mark.slow
def test_two_processes_train_as_one(job: TrainJob, tmp_path: Path) -> None:
    """The same global batch on two processes (gloo) and on one: equal to rounding."""
    one = place(job, tmp_path / "one")
    two = place(job, tmp_path / "two", num_processes=2, accumulation=1)
    assert start(one).wait() == 0 and start(two).wait() == 0
    expected, got = weights_of(tmp_path / "one", 6), weights_of(tmp_path / "two", 6)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [{"precision": "bf16"}, {"gradient_checkpointing": True}])
def test_bf16_and_recomputation_train_the_same_way(
    job: TrainJob, whole: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    job = place(job, tmp_path, num_updates=2, schedule="constant", gradient_checkpointing=False)
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
