"""The run files: recipes to the number, and every hardware preset trains a real update."""

import re
from pathlib import Path

import pytest

from srpo.artifacts import TrainJob, Weights
from srpo.config import RunConfig, load_config
from srpo.evaluation.gate import check_metrics
from srpo.forecast import footprint
from srpo.hub import fetch
from srpo.launch import launch_training
from srpo.prompts import embed_prompts
from srpo.record import METRICS, read_journal
from tests.conftest import CONFIG, SHORT
from tests.jobs import run, weights_of

CONFIGS = CONFIG.parent
RECIPES = ["flux_hpsv2", "flux_pickscore", "flux_offline", "qwen_image_pickscore"]
HARDWARE = sorted(path.stem for path in (CONFIGS / "hardware").glob("*.yaml"))


def test_the_reference_recipes_to_the_number() -> None:
    """arXiv:2509.06942 and its public configuration."""
    hps, pick = (load_config(CONFIGS / f"flux_{name}.yaml") for name in ("hpsv2", "pickscore"))
    for config in (hps, pick):
        train = config.train
        assert (train.learning_rate, train.weight_decay, train.max_grad_norm) == (5e-6, 1e-4, 0.1)
        assert (train.betas, train.eps, train.schedule) == ((0.9, 0.999), 1e-8, "constant")
        assert (config.model.height, config.model.width, config.model.max_sequence_length) == (720, 720, 512)
        assert (train.images_per_update, train.num_updates) == (32, 19)
        assert (config.rollout.num_steps, config.rollout.shift, config.align.guidance) == (25, 3.0, 3.5)
        assert (config.align.num_levels, config.align.groundtruth_ratio, config.align.grid_steps) == (1000, 0.9, 50)
        assert config.align.branches == ("denoise", "inversion")
        assert config.preference.positive == ("Natural-lighting", "Detail", "Detailed", "Real")
        assert config.preference.negative == ("Concept art", "Painting", "Anime", "Flat", "Oil")
        assert (config.preference.margin, config.preference.content_anchor) == (0.7, 0.0)
    assert (hps.rollout.guidance, hps.align.window) == (1.0, (5, 25))
    assert (hps.preference.k_denoise, hps.preference.k_inversion) == ((0.1, 0.25), (0.3, 0.01))
    assert (pick.rollout.guidance, pick.align.window) == (2.0, (5, 30))
    assert (pick.preference.k_denoise, pick.preference.k_inversion) == ((0.1, 0.5), (0.6, 0.01))


def test_offline_is_the_hpsv2_recipe_but_for_its_images() -> None:
    hps, offline = (load_config(CONFIGS / f"flux_{name}.yaml").model_dump() for name in ("hpsv2", "offline"))
    changed = {section for section in hps if hps[section] != offline[section]}
    assert changed == {"name", "images", "registry"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_bounds_the_grid_of_its_rewards_patches(recipe: str) -> None:
    """PickScore's image tower is a ViT-H-14, too."""
    import open_clip

    config = load_config(CONFIGS / f"{recipe}.yaml")
    vision = open_clip.get_model_config(config.reward.architecture)["vision_cfg"]
    period = vision["patch_size"] * min(config.model.height, config.model.width) // vision["image_size"]
    assert period in config.evaluation.grid_periods
    for bounds in (config.evaluation.gate, config.monitor.bounds):
        assert any(bound.metric == f"grid/{period}" and bound.max_change for bound in bounds)
    check_metrics(config)


@pytest.mark.parametrize("recipe", [*RECIPES, "shapes"])
def test_a_run_with_a_name_of_its_own_competes_under_that(recipe: str, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("name: realism\n")
    assert load_config((CONFIGS / f"{recipe}.yaml", own)).registry.model_name == "realism"


@pytest.mark.parametrize("recipe", RECIPES[:3])
@pytest.mark.parametrize("hardware", HARDWARE)
def test_recipes_and_hardware_compose(recipe: str, hardware: str) -> None:
    plain = load_config(CONFIGS / f"{recipe}.yaml")
    config = load_config((CONFIGS / f"{recipe}.yaml", CONFIGS / "hardware" / f"{hardware}.yaml"))
    assert config.train.images_per_update == 32
    for section in ("preference", "rollout", "reward", "prompts"):
        assert getattr(config, section) == getattr(plain, section)
    assert config.align == plain.align.model_copy(update={"together": config.align.together})


@pytest.mark.parametrize("hardware", HARDWARE)
def test_pods_have_the_memory_to_save_what_a_preset_trains(hardware: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config((CONFIGS / "flux_hpsv2.yaml", CONFIGS / "hardware" / f"{hardware}.yaml"))
    values = 12 * 10**9 // (footprint.ADAPTER_SHARE if config.train.lora else 1)
    monkeypatch.setattr(footprint, "_sizes", lambda _: (values, 1))
    assert footprint.memory_to_save(config) <= config.resources.train.memory * 2**30


def test_a_reward_can_be_added_to_a_recipe() -> None:
    config = load_config((CONFIGS / "flux_hpsv2.yaml", CONFIGS / "rewards" / "pickscore.yaml"))
    pick = config.rewards["pickscore"]
    assert (pick.family, pick.weight, pick.scale, config.reward.family) == ("clip", 0.5, None, "hps")
    assert pick.preference == config.preference.model_copy(update={"k_denoise": (0.1, 0.5), "k_inversion": (0.6, 0.01)})


def test_held_out_judges_can_be_added_to_a_recipe_and_loosen_nothing() -> None:
    plain = load_config(CONFIGS / "flux_hpsv2.yaml")
    judged = load_config((CONFIGS / "flux_hpsv2.yaml", CONFIGS / "scores" / "held_out.yaml"))
    check_metrics(judged)
    assert set(judged.watched_scores) == set(judged.evaluation.scores) == {"pick_score", "clip_score"}
    assert (judged.monitor.watch, judged.evaluation.wanted) == ("pick_score", "pick_score")
    assert not {*judged.trained_metrics} & {bound.metric for bound in judged.evaluation.against_champion}
    assert set(plain.evaluation.gate) < set(judged.evaluation.gate)
    assert set(plain.monitor.bounds) < set(judged.monitor.bounds)


@pytest.mark.parametrize("revision", ["", "@main"])
@pytest.mark.parametrize("recipe", ["flux_pickscore", "qwen_image_pickscore"])
def test_a_judge_that_is_trained_on_is_warned_of(recipe: str, revision: str) -> None:
    files, source = (CONFIGS / f"{recipe}.yaml", CONFIGS / "scores" / "held_out.yaml"), "yuvalkirstain/PickScore_v1"
    with pytest.warns(
        UserWarning, match=r"monitor\.watch and evaluation\.wanted: pick_score is a held-out score of the"
    ):
        load_config(files, [f"reward.source=hf://{source}{revision}"])


@pytest.mark.parametrize("hardware", [None, *HARDWARE])
def test_the_readmes_run_file_has_as_many_pictures_an_update_on_any_card(hardware: str | None, tmp_path: Path) -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", (CONFIGS.parent / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "yours.yaml").write_text(shown, encoding="utf-8")
    card = [CONFIGS / "hardware" / f"{hardware}.yaml"] if hardware else []
    assert load_config([tmp_path / "yours.yaml", *card]).train.images_per_update == 32


def job_of(config: RunConfig, folder: Path) -> TrainJob:
    weights = Weights(model=fetch(config.model.source, "model"), reward=fetch(config.reward.source, "reward"))
    prompts = embed_prompts(config.model, config.prompts, weights, folder / "embeddings")
    return TrainJob(config=config, weights=weights, prompts=prompts, output_dir=str(folder))


@pytest.mark.parametrize("hardware", HARDWARE)
def test_every_hardware_preset_trains_a_real_update(hardware: str, tmp_path: Path) -> None:
    """On the Shapes model, with the preset's own optimizer and base; only its size and compilation are changed."""
    preset = CONFIGS / "hardware" / f"{hardware}.yaml"
    smaller = ["train.compile=false", "train.accumulation=1", "train.precision=bf16"]
    several = load_config((CONFIG, preset)).train.num_processes > 1
    if several:
        smaller.append("train.num_processes=2")
    config = load_config((CONFIG, preset), (*SHORT, *smaller))
    job = job_of(config, tmp_path)
    trained = launch_training(job) if several else run(job)
    assert trained.num_updates == 2
    journal = read_journal(tmp_path / METRICS)
    assert all(entry["grad_norm"] > 0 for entry in journal)
    first, second = weights_of(tmp_path, 1), weights_of(tmp_path, 2)
    assert any((first[name] != second[name]).any() for name in first)
