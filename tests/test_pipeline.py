"""The pipeline as ZenML runs it: caching, parts, failure and resumption, everything in one folder."""

import json
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from safetensors.torch import load_file
from zenml.client import Client

import steps.evaluate
from pipelines import fingerprint
from pipelines.earlier import earlier_outputs
from pipelines.execute import execute
from pipelines.outcome import Outcome
from pipelines.place import Place
from pipelines.runs import load_run
from srpo.artifacts import Evaluated
from srpo.config import ScoreConfig, load_config
from srpo.errors import ConfigError
from srpo.reference import find_model
from tests.conftest import CONFIG, SHORT
from tests.runs import run


def statuses(outcome: Outcome) -> dict[str, str]:
    return {step.name: step.status for step in outcome.steps}


def test_the_whole_pipeline_runs_and_leaves_its_results(finished: Outcome, place: Place) -> None:
    assert statuses(finished) == dict.fromkeys(("download", "embed", "train", "evaluate", "register"), "completed")
    assert finished.trained
    assert finished.trained.num_updates == 2
    assert finished.evaluated
    assert "<html" in Path(finished.evaluated.report_html).read_text().lower()
    assert load_run(place, finished.record.name) == finished.record
    assert finished.record.state == "done"
    assert all(step.seconds > 0 for step in finished.steps)


def test_the_artifacts_are_small_named_and_the_report_can_be_seen(finished: Outcome) -> None:
    done = Client().get_pipeline_run(finished.record.attempts[0]).steps
    assert {name: sorted(step.outputs) for name, step in done.items()} == {
        "download": ["weights"],
        "embed": ["prompts"],
        "train": ["trained"],
        "evaluate": ["evaluated", "report"],
        "register": ["registered"],
    }
    assert done["evaluate"].outputs["report"][0].visualizations


def test_mlflow_has_params_metrics_strips_report_and_versions(finished: Outcome) -> None:
    tracked = finished.record.tracked
    client = MlflowClient(tracked.uri)
    found = client.get_run(tracked.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params["train.num_updates"] == "2"
    assert [metric.step for metric in client.get_metric_history(tracked.run_id, "train/loss")] == [1, 2]
    assert {"held_out/relative", "evaluation/luminance/lower"} <= set(found.data.metrics)
    assert {"code.version", "data.model_sha256", "data.train_prompts_sha256"} <= set(found.data.tags)
    folders = {file.path for file in client.list_artifacts(tracked.run_id)}
    assert {"config.yaml", "evaluation", "images", "model"} <= folders


OWN_RUN = """
name: own
model: {{source: {flux}, height: 32, width: 48, max_sequence_length: 16}}
reward: {{family: hps, source: {hps}/HPS_tiny.pt, architecture: tiny.json}}
prompts: {{train: {train}, held_out: {held_out}}}
preference: {{positive: [Natural-lighting, Detail], negative: [Painting]}}
align: {{window: [5, 30]}}
rollout: {{num_steps: 2, guidance: 2}}
train: {{num_updates: 2, batch_size: 2, precision: bf16, save_every: 1}}
monitor: {{every: 1, num_images: 4, strip_images: 2}}
evaluation: {{num_steps: 2, num_prompts: 6, seeds_per_prompt: 2, num_resamples: 100, num_report_images: 2}}
registry: {{model_name: own}}
"""


def test_your_own_model_reward_and_a_thousand_prompts(
    place: Place, flux_folder: Path, hps_folder: Path, tmp_path: Path
) -> None:
    """Nothing of the embedded world: paths, another picture size, words it has never seen, the paper's metrics."""
    (tmp_path / "train.txt").write_text("\n".join(f"photo {i} of an old harbour, ships and gulls" for i in range(1000)))
    (tmp_path / "held_out.txt").write_text("\n".join(f"portrait {i} of a sailor" for i in range(8)))
    path = tmp_path / "own.yaml"
    train, held_out = tmp_path / "train.txt", tmp_path / "held_out.txt"
    path.write_text(OWN_RUN.format(flux=flux_folder, hps=hps_folder, train=train, held_out=held_out))
    outcome = run(place, load_config(path))
    assert outcome.evaluated
    assert outcome.registered
    report = json.loads(Path(outcome.evaluated.report_json).read_text())
    assert report["num_prompts"] == 6
    assert {"relative", "reward", "saturation", "sharpness", "clipped", "spread"} <= set(
        report["contrasts"][0]["metrics"]
    )
    assert "content" not in report["contrasts"][0]["metrics"]
    assert {check["metric"] for check in report["checks"]} >= {"relative", "saturation", "spread"}


QWEN_RUN = (
    "model.height=32",
    "model.width=48",
    "model.max_sequence_length=64",
    "rollout.num_steps=2",
    "train.num_updates=2",
    "train.accumulation=2",
    "train.save_every=1",
    "monitor.every=1",
    "monitor.num_images=2",
    "evaluation.num_steps=2",
    "evaluation.num_prompts=5",
    "evaluation.seeds_per_prompt=2",
    "evaluation.num_resamples=100",
    "evaluation.grid_periods=[4, 8]",  # pictures are small
    "evaluation.gate=[{metric: grid/8, max_change: 0.3}]",
    "monitor.bounds=[{metric: grid/8, max_change: 0.2}]",
)


def test_another_base_model_goes_all_the_way_and_is_drawn_again_from_the_registry(
    place: Place, qwen_folder: Path, clip_folder: Path, tmp_path: Path
) -> None:
    """The recipe of Qwen-Image as it is, but for sizes and counts; prompts of many lengths."""
    (tmp_path / "train.txt").write_text("\n".join(f"photo of {'old ' * i}ships" for i in range(40)))
    (tmp_path / "held_out.txt").write_text("\n".join(f"portrait of {'very ' * i}old sailors" for i in range(7)))
    sources = {
        "model.source": qwen_folder,
        "reward.source": clip_folder,
        "prompts.train": tmp_path / "train.txt",
        "prompts.held_out": tmp_path / "held_out.txt",
    }
    overrides = (*QWEN_RUN, *(f"{key}={value}" for key, value in sources.items()))
    outcome = run(place, load_config(CONFIG.parent / "qwen_image_pickscore.yaml", overrides))
    assert statuses(outcome) == dict.fromkeys(("download", "embed", "train", "evaluate", "register"), "completed")
    assert outcome.trained and outcome.registered
    base, aligned = (
        load_file(next(folder.glob("*.safetensors")))
        for folder in (qwen_folder / "transformer", outcome.trained.transformer.path)
    )
    assert any(not torch.equal(base[name], aligned[name]) for name in base)
    files = find_model(outcome.registered.uri, None, place.mlflow_uri)
    painter, sampling = files.painter(), files.sampling
    assert sampling.guidance == 4
    first, again = (list(painter.images(["old ships", "a sailor"], sampling)) for _ in range(2))
    assert first[0].size == (48, 32)
    assert first[0].tobytes() == again[0].tobytes() != first[1].tobytes()


def test_a_change_in_training_reuses_download_and_embed(finished: Outcome, place: Place) -> None:
    config = load_config(CONFIG, (*SHORT, "train.learning_rate=1e-4"))
    assert statuses(run(place, config, last="embed")) == {"download": "cached", "embed": "cached"}


def test_other_prompts_are_embedded_and_the_download_is_reused(finished: Outcome, place: Place, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle on a green background\n")
    config = load_config(CONFIG, (*SHORT, f"prompts.train={prompts}"))
    assert statuses(run(place, config, last="embed")) == {"download": "cached", "embed": "completed"}
    assert statuses(run(place, config, last="embed")) == {"download": "cached", "embed": "cached"}
    prompts.write_text("a red circle on a green background\na red ring on a green background\n")
    assert statuses(run(place, config, last="embed")) == {"download": "cached", "embed": "completed"}


def test_changed_code_makes_cached_results_stale(
    finished: Outcome, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = fingerprint._source
    edited = {"srpo.hub": "# edited"}
    monkeypatch.setattr(fingerprint, "_source", lambda name: source(name) + edited.get(name, ""))
    config = load_config(CONFIG, SHORT)
    assert statuses(run(place, config, last="download")) == {"download": "completed"}


def test_lost_embeddings_are_made_again(finished: Outcome, place: Place) -> None:
    config = load_config(CONFIG, SHORT)
    for folder in place.embeddings.iterdir():
        folder.rename(folder.with_name(f"lost-{folder.name}"))
    assert statuses(run(place, config, last="embed"))["embed"] == "completed"


def test_code_fingerprints_follow_imports() -> None:
    assert {"srpo.hub", "srpo.models.flux", "srpo.config", "srpo.flow"} <= fingerprint._reachable("srpo.prompts")
    assert "srpo.train" not in fingerprint._reachable("srpo.prompts")


def test_weights_are_told_apart_by_size_and_time(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    before = fingerprint.of_weights(tmp_path)
    assert fingerprint.of_weights(tmp_path) == before
    (tmp_path / "a").write_bytes(b"12")
    assert fingerprint.of_weights(tmp_path) != before


def test_a_failed_run_goes_on_from_the_failed_step(
    finished: Outcome, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Evaluated:
        raise RuntimeError("the disk was unplugged")

    with monkeypatch.context() as patch:
        patch.setattr(steps.evaluate, "evaluate_model", fail)
        with pytest.raises(RuntimeError, match="unplugged"):
            run(place, finished.record.config, first="evaluate", last="evaluate")
    newest = max(place.runs.iterdir(), key=lambda folder: json.loads((folder / "run.json").read_text())["created"])
    record = load_run(place, newest.name)
    assert record.state == "failed"
    assert "unplugged" in record.error
    assert MlflowClient(record.tracked.uri).get_run(record.tracked.run_id).info.status == "FAILED"
    outcome = execute(place, record, 0.0)
    assert outcome.record.state == "done"
    assert outcome.record.attempts == (record.name, f"{record.name}-attempt-2")
    assert statuses(outcome) == {"download": "given", "embed": "given", "train": "given", "evaluate": "completed"}
    assert outcome.trained == finished.trained
    assert MlflowClient(record.tracked.uri).get_run(record.tracked.run_id).info.status == "FINISHED"


def test_a_part_without_what_it_needs_is_refused(place: Place) -> None:
    with pytest.raises(ConfigError, match=r"--from train needs.*weights, prompts"):
        run(place, load_config(CONFIG, (*SHORT, "name=unheard-of")), first="train")


def test_other_held_out_scores_are_fetched_for_an_evaluation_anew(finished: Outcome, place: Place) -> None:
    same = finished.record.config
    score = ScoreConfig(family="hps", source="builtin:shapes", architecture="shapes-vit.json")
    other = same.model_copy(update={"evaluation": same.evaluation.model_copy(update={"scores": {"held": score}})})
    taken = earlier_outputs(place, same, "evaluate")
    assert taken.keys() == {"weights", "prompts", "trained"}
    assert earlier_outputs(place, other, "evaluate") == {name: taken[name] for name in ("prompts", "trained")}


def test_a_run_whose_weights_were_freed_is_passed_over(finished: Outcome, place: Place, tmp_path: Path) -> None:
    assert finished.trained
    config, weights = finished.record.config, finished.trained.transformer.path
    assert earlier_outputs(place, config, "register").keys() == {"weights", "prompts", "trained", "evaluated"}
    moved = weights.rename(tmp_path / "moved")
    try:
        freed = r"--from register needs .*, but shapes-\S+, whose weights were freed"
        with pytest.raises(ConfigError, match=freed):
            earlier_outputs(place, config, "register")
        assert earlier_outputs(place, config, "train").keys() == {"weights", "prompts"}
    finally:
        moved.rename(weights)


def test_results_of_other_settings_are_not_taken_for_ones_own(finished: Outcome, place: Place) -> None:
    with pytest.raises(ConfigError, match="made them all with these settings"):
        run(place, load_config(CONFIG, (*SHORT, "model.max_sequence_length=11")), first="train", last="train")
