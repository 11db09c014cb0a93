"""What decides an image's scores enters the key by which they are found again."""

import shutil
from pathlib import Path

import pytest

from srpo.artifacts import ScoreWeights, Weights
from srpo.config import EvaluationConfig, RewardConfig, RunConfig, ScoreConfig
from srpo.evaluation.contender import score_key
from srpo.hub import snapshot
from srpo.shapes.models import BPE_NAME


@pytest.mark.parametrize("judge", ["reward", "score"])
def test_another_content_of_an_architecture_file_is_another_judge(hps_folder: Path, tmp_path: Path, judge: str) -> None:
    for file in ("tiny.json", BPE_NAME):
        shutil.copy(hps_folder / file, tmp_path)
    architecture = tmp_path / "tiny.json"
    checkpoint = snapshot(hps_folder / "HPS_tiny.pt", "hps")
    weights = Weights(model=checkpoint, reward=checkpoint, scores={"held": ScoreWeights(checkpoint=checkpoint)})
    own, beside = str(architecture), "tiny.json"
    score = ScoreConfig(family="hps", source="hps", architecture=own if judge == "score" else beside)
    reward = RewardConfig(source="hps", architecture=own if judge == "reward" else beside)
    config = RunConfig(reward=reward, evaluation=EvaluationConfig(scores={"held": score}))
    before = score_key(config, weights)
    assert score_key(config, weights) == before
    architecture.write_text(architecture.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert score_key(config, weights) != before
