"""The config: strict, with the path of every wrong key; its defaults are the published HPSv2.1 recipe."""

from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from srpo.config import (
    Bound,
    ImagesConfig,
    LoraConfig,
    MonitorConfig,
    RegistryConfig,
    ResourcesConfig,
    RunConfig,
    ScoreConfig,
    Settings,
    load_config,
    parse_config,
)
from srpo.config.base import flatten
from srpo.config.describe import describe
from srpo.config.method import ReflMethod
from srpo.config.resources import TrainResources
from srpo.config.rewards import AddedReward
from srpo.errors import ConfigError
from srpo.models import FAMILIES
from srpo.presets import PRESETS

CONFIGS = Path(__file__).parent.parent / "configs"


def test_defaults_are_the_reference_recipe() -> None:
    config = RunConfig()
    train, align, preference = config.train, config.align, config.preference
    assert (train.learning_rate, train.weight_decay, train.max_grad_norm) == (5e-6, 1e-4, 0.1)
    assert (train.betas, train.eps, train.schedule) == ((0.9, 0.999), 1e-8, "constant")
    assert (config.rollout.num_steps, config.rollout.shift, config.rollout.guidance) == (25, 3, 1)
    assert (align.guidance, align.window, align.num_levels, align.groundtruth_ratio) == (3.5, (5, 25), 1000, 0.9)
    assert (preference.k_denoise, preference.k_inversion, preference.margin) == ((0.1, 0.25), (0.3, 0.01), 0.7)
    assert preference.content_anchor == 0
    assert preference.positive == ("Natural-lighting", "Detail", "Detailed", "Real")
    assert preference.negative == ("Concept art", "Painting", "Anime", "Flat", "Oil")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"train": {"lr": 1}}, "run.yaml: train.lr: unknown key"),
        ({"nonsense": 1}, "run.yaml: nonsense: unknown key"),
        ({"train": {"num_updates": -3}}, r"train.num_updates: Input should be greater than 0 \(got -3\)"),
        ({"align": {"window": [0, 25]}}, "align: window starts at step 0, sigma 1"),
        ({"seed": 2**32}, "seed: Input should be less than or equal to 4294967295"),
        ({"preference": {"negative": []}}, "preference.negative: Tuple should have at least 1 item"),
        ({"monitor": {"every": 3}}, r"^run.yaml: monitor.every \(3\) must be a multiple of train.save_every \(5\)"),
        ({"monitor": {"bounds": [{"metric": "spread"}]}}, "monitor.bounds.0: the bound on 'spread' has no limit"),
        (
            {"monitor": {"bounds": [{"metric": "spread", "min_ratio": 2, "max_ratio": 1}]}},
            "the bound on 'spread' can never hold: min_ratio 2 is above max_ratio 1",
        ),
        (
            {"evaluation": {"gate": [{"metric": "spread", "min_change": 0.1, "max_change": 0}]}},
            "the bound on 'spread' can never hold: min_change 0.1 is above max_change 0",
        ),
        ({"train": {"learning_rate": float("nan")}}, "train.learning_rate"),
        ({"train": {"lora": True}}, r"train\.lora: give its settings, as {key: value} \(got True\)"),
        (
            {"preference": {"positive": "Bright"}},
            r"preference\.positive: give a list, .* \(got 'Bright'\)",
        ),
        ({"train": {"betas": (0.9, 1.0)}}, "train.betas.1"),
        ({"train": {"betas": (-1, 0.999)}}, "train.betas.0"),
        ({"train": {"num_warmup_updates": 3}}, "num_warmup_updates has no effect with schedule 'constant'"),
        ({"schema_version": 2}, "has schema_version 2, this srpo reads 1"),
    ],
)
def test_wrong_settings_are_named(data: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(data, "run.yaml")


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config({"train": {"lr": 1, "eps": 0}, "seed": -1}, "run.yaml")
    assert len(str(caught.value).splitlines()) == 3


def test_overrides_are_read_as_yaml(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train: {num_updates: 3}\n")
    config = load_config(path, ("train.num_updates=7", "preference.positive=[Bright, Sharp]", "align.guidance=null"))
    assert config.train.num_updates == 7
    assert config.preference.positive == ("Bright", "Sharp")
    assert config.align.guidance is None


@pytest.mark.parametrize(
    ("override", "message"),
    [("train.num_updates", "must have the form"), ("seed.a=1", "'seed' is a value"), ("seed=[", "not valid YAML")],
)
def test_wrong_overrides(tmp_path: Path, override: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("seed: 1\n")
    with pytest.raises(ConfigError, match=message):
        load_config(path, (override,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("? [a]\n: 1", "not valid YAML"),
        ("- 1", "must hold a mapping"),
        (None, "no config file"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


@pytest.mark.parametrize(
    "text", ["train: {num_updates: 5}\nseed: 1\ntrain: {jitter: 4}\n", "seed: 1\n\ntrain: {jitter: 4, jitter: 5}\n"]
)
def test_what_is_said_twice_is_refused_with_its_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"'(train|jitter)' is there a second time(.|\n)*line 3"):
        load_config(path)
    with pytest.raises(ConfigError, match="'jitter' is there a second time"):
        load_config(CONFIGS / "shapes.yaml", ("train={jitter: 4, jitter: 5}",))


def test_a_merged_mapping_may_be_changed(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("resources:\n  embed: &gpu {gpus: 1, memory: 8}\n  train: {<<: *gpu, memory: 9}\n")
    train = load_config(path).resources.train
    assert (train.gpus, train.memory) == (1, 9)
    path.write_text("resources:\n  embed: &gpu\n    <<: {gpus: 1, memory: 8}\n    memory: 9\n  train: {<<: *gpu}\n")
    train = load_config(path).resources.train
    assert (train.gpus, train.memory) == (1, 9), "what is merged may have been merged itself"


def test_a_section_whose_lines_are_all_comments_is_left_out(tmp_path: Path) -> None:
    base, change = tmp_path / "base.yaml", tmp_path / "change.yaml"
    base.write_text(
        "train: {num_updates: 7, lora: {rank: 4}}\nmonitor:\nrewards:\nresources: {train: }\nalign: {guidance: }\n"
    )
    change.write_text("train:\n  # num_updates: 9\n")
    config = load_config([base, change])
    assert config.train.num_updates == 7
    assert (config.monitor, config.resources, config.rewards) == (MonitorConfig(), ResourcesConfig(), {})
    assert config.align.guidance is None, "which means something"
    change.write_text("train:\n  lora:\n")
    assert load_config([base, change]).train.lora is None
    lora = load_config(change, ("train.lora.rank=8",)).train.lora
    assert lora and lora.rank == 8


def test_the_registered_model_is_named_after_the_run_if_nothing_else_is_said(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("name: realism\n")
    assert load_config(path).registry.model_name == "realism"
    assert load_config(path, ("name=other", "registry.lease=/leases")).registry.model_name == "other"
    assert load_config(path, ("registry.model_name=own",)).registry.model_name == "own"
    assert RunConfig().registry.model_name == "srpo"
    in_python = RunConfig(name="realism", registry=RegistryConfig(lease="/leases"))
    assert (in_python.registry.model_name, in_python.registry.lease) == ("realism", "/leases")
    with pytest.raises(ConfigError) as refused:
        load_config(path, ("name=a/b",))
    assert len(str(refused.value).splitlines()) == 1, "one mistake"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_configs_are_valid(path: Path) -> None:
    load_config(path)


def sections(annotation: object) -> set[type[Settings]]:
    """Every kind of section that a field may hold, with those inside it."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return {annotation}.union(*(sections(field.annotation) for field in annotation.model_fields.values()))
    return set().union(*map(sections, get_args(annotation)))


def test_every_field_is_documented() -> None:
    found = sections(RunConfig)
    assert found >= {RunConfig, ImagesConfig, AddedReward, ReflMethod, LoraConfig, Bound, ScoreConfig, TrainResources}
    fields = [(section.__name__, *item) for section in found for item in section.model_fields.items()]
    assert [f"{section}.{name}" for section, name, field in fields if not field.description] == []


ANOTHER = "evaluation: {wanted: luminance, gate: [{metric: luminance, min_change: 0}]}\n"
ADDED = "rewards: {pick: {family: clip, source: there}}\n"


BOTH = r"evaluation\.gate and evaluation\.champion_gate"


@pytest.mark.parametrize(
    ("text", "gates", "metrics"),
    [
        ("name: plain\n", BOTH, r"\(reward, relative\)"),
        ("evaluation: {gate: [{metric: reward, min_change: 0}]}\n", BOTH, r"\(reward, relative\)"),
        (
            ADDED + "evaluation: {gate: [{metric: relative, min_change: 0}, {metric: relative/pick, min_change: 0}]}\n",
            BOTH,
            r"\(reward, relative, reward/pick, relative/pick\)",
        ),
        (
            ADDED + "evaluation: {gate: [], champion_gate: [{metric: reward/pick, min_change: 0}]}\n",
            r"evaluation\.champion_gate",
            "reward/pick",
        ),
        (
            "evaluation: {grid_periods: [8], wanted: luminance, gate: [{metric: grid/8, max_change: 0.1}, "
            "{metric: drift, max_change: 1}]}\n",
            r"evaluation\.gate",
            "reward",
        ),
        (
            "reward: {source: there}\nevaluation: {wanted: luminance, gate: [{metric: relative/pick, min_change: 0}], "
            "scores: {pick: {family: pick_score, source: there}}}\n",
            r"evaluation\.gate",
            "relative/pick",
        ),
    ],
)
def test_gates_of_nothing_but_trained_rewards_and_meters_are_warned_of(
    text: str, gates: str, metrics: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.warns(UserWarning, match=rf"^{gates}: nothing decides but .*{metrics}.*held_out\.yaml") as caught:
        load_config(path)
    assert len(caught) == 1


@pytest.mark.parametrize("recipe", sorted({path.name for path in CONFIGS.glob("*.yaml")} - {"shapes.yaml"}))
def test_a_recipe_is_warned_of_until_judges_are_added(recipe: str, recwarn: pytest.WarningsRecorder) -> None:
    load_config(CONFIGS / recipe)
    assert any("held_out.yaml" in str(warning.message) for warning in recwarn.list)
    recwarn.clear()
    load_config([CONFIGS / recipe, CONFIGS / "scores" / "held_out.yaml"])
    assert not any("decides" in str(warning.message) for warning in recwarn.list)


def test_diversity_is_seen_by_what_an_evaluation_loads(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    scores = "scores: {pick: {family: pick_score, source: there}}"
    path.write_text(f"evaluation: {{diversity_by: pick, {scores}}}\n")
    assert load_config(path).evaluation.diversity_by == "pick"
    path.write_text(f"evaluation: {{diversity_by: beauty, {scores}}}\n")
    with pytest.raises(ConfigError, match=r"diversity_by: no score named 'beauty'; choose from reward, pick"):
        load_config(path)


@pytest.mark.parametrize("text", [ANOTHER, ADDED + ANOTHER, "evaluation: {gate: [], champion_gate: []}\n", None])
def test_other_gates_and_the_demo_are_not(text: str | None, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = CONFIGS / "shapes.yaml"
    if text is not None:
        path = tmp_path / "run.yaml"
        path.write_text(text)
    load_config(path)
    assert not recwarn.list


def test_only_bounded_scores_are_watched_in_training() -> None:
    score = {"family": "pick_score", "source": "x"}
    bounds = [{"metric": "relative/first", "min_change": 0}, {"metric": "clipped", "max_change": 0.1}]
    data = {"monitor": {"bounds": bounds}, "evaluation": {"scores": {"first": score, "second": score}}}
    assert list(RunConfig.model_validate(data).watched_scores) == ["first"]


def test_the_monitor_watches_what_the_method_trains_on() -> None:
    for monitor in ({"every": 5}, MonitorConfig(every=5)):
        watching = RunConfig.model_validate({"method": "refl", "monitor": monitor}).monitor
        assert (watching.watch, watching.every) == ("reward", 5)


def test_an_anchor_without_its_branch_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"preference\.content_anchor acts in the denoise branch"):
        RunConfig.model_validate({"preference": {"content_anchor": 1}, "align": {"branches": ["inversion"]}})


def test_rollouts_in_the_precision_of_training_anyway_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"rollout\.precision 'bf16' does nothing, because train\.precision is"):
        RunConfig.model_validate({"rollout": {"precision": "bf16"}})
    RunConfig.model_validate({"rollout": {"precision": "bf16"}, "train": {"precision": "fp32"}})


def test_nested_settings_become_dotted_names() -> None:
    values = {"a": 1, "b": {"c": {"d": 2}, "e": [{"f": 3}]}, "g": {}}
    assert flatten(values) == {"a": 1, "b.c.d": 2, "b.e": [{"f": 3}]}


def test_every_setting_is_described_by_its_name_in_a_run_file() -> None:
    described = {setting.name: setting for setting in describe()}
    assert described["train.jitter"].default == 0
    assert described["images.source"].default is ...
    assert described["train.schedule"].choices == ("constant", "constant_with_warmup", "linear", "cosine")
    assert described["train.lora"].is_section
    assert {"monitor.bounds[].max_change", "evaluation.scores.NAME.family", "method.num_copies"} <= described.keys()
    assert {"resources.register", "resources.train.nodes"} <= described.keys(), "by the key that a file holds"
    for setting, choices in (("preference.preset", PRESETS), ("model.family", FAMILIES)):
        assert all(choice in described[setting].says for choice in choices)
    last = {name.rpartition(".")[2] for name in described}
    fields = [field for section in sections(RunConfig) for field in section.model_fields.items()]
    assert {field.alias or name for name, field in fields} <= last
