"""What decides an image's scores enters the key by which they are found again."""

import shutil
from importlib.metadata import version
from pathlib import Path

import pytest

from srpo.artifacts import ScoreWeights, Snapshot, Weights
from srpo.config import EvaluationConfig, ModelConfig, RewardConfig, RunConfig, ScoreConfig
from srpo.evaluation import contender
from srpo.evaluation.contender import Contender, score_key
from srpo.hub import snapshot
from srpo.shapes.models import BPE_NAME


def key_of_images(checkpoint: Snapshot) -> str:
    contender.code_digest.cache_clear()
    model = ModelConfig()
    return Contender(label="one", reference="one", model=model, base=checkpoint, transformer=checkpoint).image_key(
        RunConfig(), "cpu"
    )


def test_another_version_of_what_keeps_weights_in_few_bits_draws_other_pictures(
    hps_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = snapshot(hps_folder / "HPS_tiny.pt", "hps")
    before = key_of_images(checkpoint)
    assert key_of_images(checkpoint) == before
    for name in ("peft", "torchao", "bitsandbytes", "torchvision"):
        with monkeypatch.context() as patch:
            patch.setattr(contender, "version", lambda asked, other=name: "0" if asked == other else version(asked))
            assert key_of_images(checkpoint) != before
    contender.code_digest.cache_clear()


def test_what_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contender, "PACKAGES", ("torch", "surely-not-installed"))
    assert list(contender.package_versions()) == ["torch"]


def test_another_oracle_sees_another_content(hps_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = snapshot(hps_folder / "HPS_tiny.pt", "hps")
    weights, reward = Weights(model=checkpoint, reward=checkpoint), RewardConfig(source="hps", family="clip")
    of_world = RunConfig(reward=reward, evaluation=EvaluationConfig(world="shapes"))
    plain = RunConfig(reward=reward)
    before = [score_key(config, weights) for config in (of_world, plain)]
    (tmp_path / "oracle").write_bytes(b"another")
    monkeypatch.setattr(contender, "ORACLE_PATH", tmp_path / "oracle")
    assert score_key(of_world, weights) != before[0]
    assert score_key(plain, weights) == before[1]


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
