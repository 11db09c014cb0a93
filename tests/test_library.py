"""The library without the pipeline: the README's lines, as a notebook would run them."""

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DRAW, TRAIN, _ = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(autouse=True)
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder with nothing but the run files."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "a notebook", "exec"), names)
    return names


def test_a_model_draws_and_a_reward_scores_as_the_readme_says(tmp_path: Path) -> None:
    names = run(DRAW)
    assert names["images"].shape == (1, 3, 32, 32)
    assert 0.3 < float(names["scores"]) < 1, "the picture is what was asked for"
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


def test_a_training_is_two_calls(tmp_path: Path) -> None:
    assert run(TRAIN)["trained"].num_updates == 1
    assert (tmp_path / "training" / "transformer" / "config.json").is_file()
