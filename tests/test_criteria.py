"""Several rewards: their gradients add up, each asks its own words, and one scale is measured for all."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipelines.place import Place
from srpo.artifacts import TrainJob
from srpo.config import AddedReward, PreferenceConfig, RunConfig, parse_config
from srpo.criteria import Criterion, measure_scales
from srpo.errors import ConfigError
from srpo.hub import fetch
from srpo.methods import make_method
from srpo.objective import StepScores
from srpo.provenance import data_version
from srpo.record import read_journal
from srpo.weights import bring, fetch_weights
from tests.analytic import Analytic, Linear, noise, rollout_of
from tests.jobs import assert_same_weights, place, run

POSITIONS = torch.tensor([[300, 900]])
WEIGHT, SCALE = 0.3, 4.0
FIRST = {"positive": ["Bright"], "negative": ["Dark"], "margin": 0.1, "content_anchor": 0.5}
SECOND = {"positive": ["Vivid"], "k_denoise": [0.5, 0.7], "margin": 0.6, "content_anchor": 0.1}


def gradient(config: RunConfig, criteria: list[Criterion]) -> tuple[Tensor, list[StepScores]]:
    model = Analytic()
    method, measured = make_method(config, model, criteria, nullcontext), []
    for loss, scores in method.losses(rollout_of(noise().flip(0), noise()), POSITIONS, update=1):
        loss.backward()
        measured += scores
    return model.weight.grad, measured


@pytest.mark.parametrize("together", [True, False])
def test_the_gradient_of_two_rewards_is_the_weighted_sum_of_each_ones(together: bool) -> None:
    added = {"second": {"preference": SECOND, "weight": WEIGHT, "scale": SCALE}}
    align = {"together": together, "num_levels": 1000}
    both = parse_config({"preference": FIRST, "rewards": added, "align": align}, "test")
    own = both.rewards["second"]
    first = Criterion("", Linear(2), both.preference)
    second = Criterion("second", Linear(5), own.preference, own.weight, own.scale)
    total, scores = gradient(both, [first, second])
    alone = gradient(both, [first])[0]
    # a reward of SCALE times the scores, alone
    preference = own.preference.model_copy(update={"margin": own.preference.margin / SCALE})
    other, measured = gradient(both, [Criterion("", Linear(5), preference)])
    torch.testing.assert_close(total, alone + WEIGHT * SCALE * other, rtol=1e-6, atol=1e-9)
    assert min(alone.norm(), other.norm()) > 1e-4
    for both_rewards, single in zip(scores, measured, strict=True):
        torch.testing.assert_close(both_rewards.added["relative/second"], single.relative)
        torch.testing.assert_close(both_rewards.added["reward/second"], single.reward)


def test_an_added_reward_takes_from_the_runs_preference_what_it_leaves_out() -> None:
    run_ = {"preset": "comic", "margin": 0.2, "words_file": "words.csv"}
    added = {
        "same": {},
        "k": {"preference": {"k_denoise": [0, 1]}},
        "word": {"preference": {"negative": ["Photo"]}},
        "vivid": {"preference": {"preset": "vivid", "margin": 0.9}},
    }
    config = parse_config({"preference": run_, "rewards": added}, "test")
    same, k, word, vivid = (reward.preference for reward in config.rewards.values())
    assert same == config.preference.model_copy(update={"preset": None})
    assert k == same.model_copy(update={"k_denoise": (0, 1)})
    assert word == same.model_copy(update={"negative": ("Photo",), "words_file": None})
    assert (vivid.positive, vivid.negative, vivid.margin) == (("Vivid", "Colorful"), ("Pale", "Dull"), 0.9)
    assert (vivid.prefix, vivid.words_file) == ("Comic", None)
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ConfigError, match="words_file can only be given in the run's own preference"):
        parse_config({"rewards": {"x": {"preference": {"words_file": "other.csv"}}}}, "test")
    with pytest.raises(ConfigError, match=r"rewards\.x\.weight: .*greater than 0"):
        parse_config({"rewards": {"x": {"weight": 0}}}, "test")


def test_a_scale_is_the_ratio_of_deviations_unless_it_is_fixed() -> None:
    preference = PreferenceConfig()
    criteria = [
        Criterion(name, Linear(0), preference, 1.0, scale) for name, scale in (("", 1.0), ("a", None), ("b", 7.0))
    ]
    scores = {"relative": torch.tensor([1.0, 3.0]), "relative/a": torch.tensor([0.0, 40.0])}
    measure_scales(criteria, scores, "relative")
    assert [criterion.scale for criterion in criteria] == [1.0, 1 / 20, 7.0]
    criteria[1].scale = None
    with pytest.raises(ConfigError, match=r"relative/a is the same for all held-out images.*rewards\.<name>\.scale"):
        measure_scales(criteria, scores | {"relative/a": torch.ones(2)}, "relative")


def with_clip(job: TrainJob, folder: Path, clip_folder: Path, **train: object) -> TrainJob:
    job = place(job, folder, schedule="constant", **train)
    preference = job.config.preference.model_copy(update={"positive": ("Vivid",)})
    added = AddedReward(family="clip", source=str(clip_folder), weight=0.5, preference=preference)
    weights = job.weights.model_copy(update={"rewards": {"pick": fetch(str(clip_folder), "reward")}})
    return job.model_copy(
        update={"config": job.config.model_copy(update={"rewards": {"pick": added}}), "weights": weights}
    )


def test_a_run_on_two_rewards_measures_both_and_resumes_with_the_scale_it_began_with(
    job: TrainJob, tmp_path: Path, clip_folder: Path
) -> None:
    run(with_clip(job, tmp_path / "whole", clip_folder, num_updates=4))
    run(with_clip(job, tmp_path / "parts", clip_folder, num_updates=2))
    run(with_clip(job, tmp_path / "parts", clip_folder, num_updates=4))
    assert_same_weights(tmp_path / "whole", tmp_path / "parts", 4)
    state = json.loads(next((tmp_path / "whole" / "checkpoints").glob("update-000004/*.json")).read_text())
    assert state["scales"][""] == 1.0 and state["scales"]["pick"] > 0
    trained = read_journal(tmp_path / "whole" / "metrics.jsonl")[0]
    assert {"denoise/relative/pick", "inversion/reward/pick"} <= set(trained)
    assert trained["reward"] == (trained["denoise/reward"] + trained["inversion/reward"]) / 2
    assert {"relative/pick", "reward/pick"} <= set(read_journal(tmp_path / "whole" / "heldout.jsonl")[0])
    with pytest.raises(ConfigError, match="other settings in rewards"):
        run(place(job, tmp_path / "parts", num_updates=6, schedule="constant"))


def test_every_reward_is_carried_to_the_steps_and_named_by_its_hash(
    job: TrainJob, tmp_path: Path, clip_folder: Path
) -> None:
    two = with_clip(job, tmp_path, clip_folder)
    assert bring(two.weights) == two.weights
    assert fetch_weights(two.config.model, two.config.reward, {}, two.config.rewards) == two.weights
    hashes = data_version(two.weights, two.prompts)
    assert hashes["data.reward_sha256"] == job.weights.reward.sha256
    assert hashes["data.reward_pick_sha256"] == two.weights.rewards["pick"].sha256
    assert two.config.sources == (two.config.model.source, two.config.reward.source, str(clip_folder))
    (tmp_path / "runs" / "run").mkdir(parents=True)
    (tmp_path / "runs" / "run" / "run.json").write_text(json.dumps({"config": two.config.model_dump(mode="json")}))
    assert set(two.config.inputs) <= set(Place(tmp_path).recorded_inputs("run"))
