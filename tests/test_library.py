"""The library without the pipeline: what a notebook holds, line by line."""

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DRAW = """
import torch
from srpo.config import load_config
from srpo.generate import Painter, Sampling
from srpo.hub import resolve
from srpo.rewards import load_reward

config = load_config("configs/shapes.yaml")
reward = load_reward(config.reward, resolve(config.reward.source, "reward"))
painter = Painter(config.model, resolve(config.model.source, "model"))
images = torch.stack(list(painter.tensors(["a red circle on a blue background"], Sampling(num_steps=10))))
(scores,) = reward(images, ["Bright. a red circle on a blue background"])
"""
TRAIN = """
from pathlib import Path
from srpo.artifacts import TrainJob
from srpo.config import load_config
from srpo.launch import launch_training, prepare_job

config = load_config("configs/shapes.yaml", ["train.num_updates=1"])
trained = launch_training(TrainJob.load(prepare_job(config, Path("training"))))
"""


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder with nothing but the run files."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "a notebook", "exec"), names)
    return names


def test_a_model_draws_and_a_reward_scores_in_ten_lines(tmp_path: Path) -> None:
    names = run(DRAW)
    assert names["images"].shape == (1, 3, 32, 32)
    assert 0.3 < float(names["scores"]) < 1, "the picture is what was asked for"
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


def test_a_training_is_two_calls(tmp_path: Path) -> None:
    assert run(TRAIN)["trained"].num_updates == 1
    assert (tmp_path / "training" / "transformer" / "config.json").is_file()
