"""A plan refuses what cannot work, in one sentence, before any work."""

import errno
import os
import shutil
from math import prod
from pathlib import Path
from types import SimpleNamespace

import pytest

from srpo.config import load_config
from srpo.errors import ConfigError
from srpo.forecast import footprint
from srpo.forecast.footprint import disk_needed, memory_to_save
from srpo.hub import resolve
from srpo.plan import make_plan
from tests.conftest import CONFIG, SHORT
from tests.rewards.test_head import make


def test_a_good_run_lists_what_was_checked(tmp_path: Path) -> None:
    plan = make_plan(load_config(CONFIG, SHORT), tmp_path, ("download", "embed"))
    assert [check.subject for check in plan.checks] == [
        *("model", "guidance", "reward", "rollout", "prompts", "words", "metrics", "output", "disk")
    ]
    assert plan.steps == ("download", "embed")
    assert 0 < plan.disk_needed < plan.disk_free


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.source=/nowhere", "nothing at /nowhere"),
        ("model.source=builtin:mars", "builtin:mars"),
        (f"model.source={CONFIG}", "is a file; give a folder in diffusers layout"),
        ("model.family=unet", "choose from"),
        ("model.height=33", "33x32"),
        ("reward.family=vibes", "choose from"),
        ("rewards={second: {source: /nowhere}}", "nothing at /nowhere"),
        ("rewards={second: {source: 'builtin:shapes', architecture: ViT-Z}}", "no model named 'ViT-Z'"),
        ("evaluation.wanted=relative/second", "evaluation.wanted: no metric named 'relative/second'"),
        ("prompts.train=/nowhere.txt", "/nowhere.txt"),
        ("train.lora={target_modules: [to_q, to_z]}", r"train\.lora\.target_modules: .* no layer named to_z"),
        ("train.attention=flush", r"train\.attention: no kernel named 'flush'; choose from .*native"),
        ("rollout.guidance=null", "rollout.guidance: the model in .* takes a guidance"),
        ("evaluation.wanted=beauty", "evaluation.wanted: no metric named 'beauty'"),
        ("monitor.bounds=[{metric: truth, min_change: 0}]", "monitor.bounds: no metric named 'truth'"),
        ("evaluation.scores={pick: {family: vibes, source: x}}", r"scores\.pick\.family: no score named 'vibes'"),
        ("evaluation.scores={pick: {family: pick_score, source: /nowhere}}", "nothing at /nowhere"),
        ("evaluation.scores={sharpness: {family: hps, source: 'builtin:shapes'}}", "that name is taken"),
        ("evaluation.scores={hps: {family: hps, source: 'builtin:shapes'}}", "do not fit its architecture"),
        ("evaluation.grid_periods=[16]", "evaluation.grid_periods: 16 px cannot be seen in images of 32 px; .* 3 to 8"),
        ("evaluation.world=null", "evaluation.gate: no metric named 'content'"),
    ],
)
def test_bad_input_is_refused_by_name(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(load_config(CONFIG, (*SHORT, override)), tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.compile=true", r"train\.compile: on a GPU Triton compiles this, and there is no C compiler here"),
        ("train.attention=flash", r"train\.attention: 'flash' cannot be used here: .*missing package"),
    ],
)
def test_where_the_gpu_is_what_training_lacks_there_is_known(
    setting: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(CONFIG, (*SHORT, setting, "train.precision=bf16"))
    make_plan(config, tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("CC", "nowhere")
    make_plan(config, tmp_path, ("evaluate",))
    with pytest.raises(ConfigError, match=message):
        make_plan(config, tmp_path)


def test_an_update_and_an_adapter_are_spelt_out(tmp_path: Path) -> None:
    settings = ("train.batch_size=2", "train.accumulation=3", "train.lora={rank: 4}")
    found = {check.subject: check.finding for check in make_plan(load_config(CONFIG, settings), tmp_path).checks}
    assert found["update"] == "6 images (batch_size 2 x accumulation 3 x num_processes 1)"
    assert found["adapter"] == "rank 4 on 28 layers"


def test_more_images_than_the_recipes_take_are_told_of_where_processes_multiply_them(tmp_path: Path) -> None:
    node = CONFIG.parent / "hardware" / "8x80gb.yaml"

    def finding(*settings: str) -> str:
        small = ("train.compile=false", "monitor.num_images=8", *settings)
        checks = make_plan(load_config([CONFIG, node], small), tmp_path).checks
        return {check.subject: check.finding for check in checks}["update"]

    assert finding() == "32 images (batch_size 1 x accumulation 4 x num_processes 8)"
    assert finding("train.accumulation=32").endswith(
        "more than the 32 of the published recipes: divide accumulation by num_processes"
    )


def test_a_real_model_is_not_given_the_captions_of_the_embedded_world(tmp_path: Path) -> None:
    folder = resolve("builtin:shapes", "model")
    of_shapes = (*SHORT, f"model.source={folder}")
    make_plan(load_config(CONFIG, of_shapes), tmp_path)
    larger = (*of_shapes, "model.height=64", "model.width=64")
    both = r"prompts\.train and prompts\.held_out: builtin:shapes are captions .*; give .* or builtin:photos"
    with pytest.raises(ConfigError, match=both):
        make_plan(load_config(CONFIG, larger), tmp_path)
    photos = ("evaluation.world=null", "evaluation.gate=[]", "monitor.bounds=[]", "prompts.held_out=builtin:photos")
    with pytest.raises(ConfigError, match=r"prompts\.train: builtin:shapes"):
        make_plan(load_config(CONFIG, (*larger, *photos)), tmp_path)
    make_plan(load_config(CONFIG, (*larger, *photos, "prompts.train=builtin:photos")), tmp_path)


def test_every_reward_is_checked_and_measured(tmp_path: Path) -> None:
    second = "rewards={second: {source: 'builtin:shapes', architecture: shapes-vit.json}}"
    plan = make_plan(load_config(CONFIG, (*SHORT, second, "evaluation.wanted=relative/second")), tmp_path)
    assert [check.subject for check in plan.checks][2:4] == ["reward", "rewards.second"]


def test_a_reward_without_text_is_refused_for_srpo_alone(tmp_path: Path, clip_folder: Path) -> None:
    folder = make(tmp_path / "aesthetic", clip_folder, (16, 8))
    settings = (*SHORT, "reward.family=head", f"reward.source={folder}")
    with pytest.raises(ConfigError, match="control words cancel out"):
        make_plan(load_config(CONFIG, settings), tmp_path)
    with pytest.warns(UserWarning, match="does not train by align.branches"):
        make_plan(load_config(CONFIG, (*settings, "method=direct_align")), tmp_path)


def test_held_out_scores_are_looked_at_and_may_be_demanded(tmp_path: Path) -> None:
    score = "{family: hps, source: 'builtin:shapes', architecture: shapes-vit.json}"
    overrides = (
        f"evaluation.scores={{held: {score}, other: {score}}}",
        "evaluation.gate=[{metric: relative/held, min_change: 0}]",
        "monitor.bounds=[{metric: held, min_change: -1}]",
    )
    plan = make_plan(load_config(CONFIG, (*SHORT, *overrides)), tmp_path)
    found = {check.subject: check.finding for check in plan.checks}
    assert found["scores.held"] == found["scores.other"] == "builtin:shapes: a whole hps checkpoint"


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    config = load_config(CONFIG, (*SHORT, "model.source=/nowhere", "prompts.train=/missing.txt"))
    with pytest.raises(ConfigError) as caught:
        make_plan(config, tmp_path)
    assert len(str(caught.value).splitlines()) == 2


def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot be written"):
        make_plan(load_config(CONFIG, SHORT), tmp_path / "file")


def test_a_full_disk_is_not_called_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as raised:
        make_plan(load_config(CONFIG, SHORT), tmp_path)
    assert raised.type is OSError


def test_too_little_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ConfigError, match=r"0\.00 GiB free.*keep_last"):
        make_plan(load_config(CONFIG, SHORT), tmp_path)


def test_pods_need_nothing_of_this_machine_s_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(CONFIG, SHORT)
    here = make_plan(config, tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    plan = make_plan(config, None)
    assert (plan.disk_needed, plan.disk_free) == (here.disk_needed, None)
    assert "output" not in {check.subject for check in plan.checks}
    assert plan.checks[-1].finding.endswith("GiB needed, none of it here")


@pytest.mark.parametrize(
    ("settings", "needed"),
    [
        ((), 2 * 4 * 1.25),
        (("train.optimizer=adamw_8bit",), 4 * 1.25),
        (("train.optimizer=adamw_8bit", "train.rounding=stochastic", "model.weights=bf16"), 2 * 1.25 * (1 + 4 / 256)),
    ],
)
def test_a_pod_has_the_memory_that_saving_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: tuple[str, ...], needed: float
) -> None:
    """The larger of a checkpoint's two files lies there whole: moments of `train.optimizer`, or weights."""
    monkeypatch.setattr(footprint, "_sizes", lambda _: (2**30, 1))
    configs = {given: load_config(CONFIG, (*SHORT, *settings, f"resources.train.memory={given}")) for given in (1, 10)}
    assert memory_to_save(configs[1]) == needed * 2**30
    with pytest.raises(ConfigError, match=r"memory is 1 GiB, but .* may take .* GiB of a pod; set it to \d+ or more"):
        make_plan(configs[1], None)
    found = {check.subject: check.finding for check in make_plan(configs[10], None).checks}
    assert f"at most {needed:.2f} GiB to save" in found["memory"]
    make_plan(configs[1], None, ("embed",))
    monkeypatch.undo()
    make_plan(configs[1], tmp_path)


def test_disk_needed_grows_by_a_checkpoint_of_weights_and_two_moments() -> None:
    from srpo.models.layout import folder_shapes

    shapes = folder_shapes(resolve("builtin:shapes", "model") / "transformer").values()
    values = sum(prod(shape) for shape in shapes)
    assert disk_needed(load_config(CONFIG), ("evaluate", "register")) == 0
    few, many = (disk_needed(load_config(CONFIG, (f"train.keep_last={count}",))) for count in (2, 3))
    assert many - few == 3 * 4 * values
    small = ("model.weights=bf16", "train.rounding=stochastic", "train.optimizer=adamw_8bit")
    few, many = (disk_needed(load_config(CONFIG, (*small, f"train.keep_last={count}"))) for count in (2, 3))
    assert many - few == 2 * values + int(2 * values * (1 + 4 / 256))


def test_what_an_earlier_attempt_wrote_is_not_needed_again(tmp_path: Path) -> None:
    config = load_config(CONFIG, SHORT)
    whole = make_plan(config, tmp_path).disk_needed
    assert make_plan(config, tmp_path, written=whole // 2).disk_needed == whole - whole // 2
    assert make_plan(config, tmp_path, written=2 * whole).disk_needed == 0


def test_prompts_that_the_world_cannot_read_are_refused(tmp_path: Path) -> None:
    prompts = tmp_path / "held_out.txt"
    prompts.write_text("two cats\na red cat on a blue sofa\na dog\na fox\na hen\na cow\nan owl\n")
    with pytest.raises(ConfigError, match=r"two cats.*set evaluation\.world to null"):
        make_plan(load_config(CONFIG, (*SHORT, f"prompts.held_out={prompts}")), tmp_path)
