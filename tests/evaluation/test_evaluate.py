"""The whole evaluation on small untrained models of the real classes: files, repeatability, the page."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from srpo.artifacts import Evaluated
from srpo.config import ScoreConfig
from srpo.errors import ConfigError, GpuMemoryError
from srpo.evaluation import measure, run
from srpo.evaluation.champion import Champion
from srpo.evaluation.contender import Contender
from srpo.evaluation.measure import Measured
from srpo.evaluation.run import evaluate
from srpo.hub import snapshot
from srpo.prompts import embed_prompts
from srpo.report.schema import Report
from srpo.report.thumbnails import IMAGES, picture_path
from srpo.rewards import load_reward
from srpo.rewards.measured import load_score
from srpo.shapes import heldout_captions
from srpo.weights import fetch_score
from tests.evaluation.inputs import HELD_OUT, JUDGED, Inputs, count_images, load, make_inputs, make_other


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, flux_folder: Path, hps_folder: Path) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("evaluate"), flux_folder, hps_folder, HELD_OUT)


@pytest.fixture(scope="module")
def evaluated(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    return evaluate(*inputs, tmp_path_factory.mktemp("report") / "evaluation")


def page(evaluated: Evaluated) -> str:
    return Path(evaluated.report_html).read_text(encoding="utf-8")


def test_the_report_holds_every_pair_and_the_verdict(inputs: Inputs, evaluated: Evaluated) -> None:
    report = load(evaluated)
    assert len(report.images) == len({(pair.prompt, pair.seed) for pair in report.images}) == 12
    assert [pair.prompt for pair in report.images[::2]] == JUDGED
    assert (evaluated.verdict, evaluated.reason, evaluated.passed) == (report.verdict, report.reason, report.passed)
    assert report.metrics["relative"].reference == pytest.approx(
        sum(pair.scores["base"]["relative"] for pair in report.images) / 12
    )
    assert len(report.checks) == 7
    assert report.gate_confidence == pytest.approx(1 - 0.05 / 6)  # five metrics of the gate, one of the champion's
    assert report.trained_metrics == ["reward", "relative"]
    assert report.champion is None
    assert [(model.label, model.transformer_sha256) for model in report.models] == [
        ("base", inputs[1].model.part("transformer").sha256),
        ("candidate", inputs[3].transformer.sha256),
    ]
    assert report.models[1].metrics["relative"].value == pytest.approx(report.metrics["relative"].candidate)
    assert report.provenance.hashes["transformer"] == inputs[3].transformer.sha256
    assert [entry["update"] for entry in report.curves.held_out] == [0, 5, 10]


def test_the_two_models_differ_and_nothing_else_is_left_behind(evaluated: Evaluated) -> None:
    assert all(pair.scores["base"] != pair.scores["candidate"] for pair in load(evaluated).images)
    left = sorted(path.name for path in Path(evaluated.report_json).parent.iterdir())
    assert left == ["images", "report.html", "report.json"]


def test_again_and_with_another_batch_size_it_finds_the_same(
    inputs: Inputs, evaluated: Evaluated, tmp_path: Path
) -> None:
    first = load(evaluated).model_dump(exclude={"created", "seconds"})
    assert load(evaluate(*inputs, tmp_path / "again")).model_dump(exclude={"created", "seconds"}) == first
    config, *others = inputs
    larger = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"batch_size": 8})})
    other = load(evaluate(larger, *others, tmp_path / "larger"))
    for pair, same in zip(other.images, load(evaluated).images, strict=True):
        assert pair.scores["candidate"] == pytest.approx(same.scores["candidate"], abs=1e-4)


def test_a_model_compared_with_itself_does_not_change(inputs: Inputs, flux_folder: Path, tmp_path: Path) -> None:
    config, weights, prompts, trained = inputs
    itself = trained.model_copy(update={"transformer": snapshot(flux_folder / "transformer", "base")})
    report = load(evaluate(config, weights, prompts, itself, tmp_path))
    assert {(row.change, row.lower, row.upper) for row in report.metrics.values()} == {(0, 0, 0)}
    assert all(pair.scores["base"] == pair.scores["candidate"] for pair in report.images)


def test_what_was_scored_before_is_neither_drawn_nor_scored_again(inputs: Inputs, tmp_path: Path) -> None:
    config, weights, prompts, trained = inputs
    scores = tmp_path / "scores"
    first = load(evaluate(*inputs, tmp_path / "first", scores_dir=scores))
    assert count_images(inputs, tmp_path / "again", scores_dir=scores) == {}
    again = Report.model_validate_json((tmp_path / "again" / "report.json").read_text(encoding="utf-8"))
    assert again.model_dump(exclude={"created", "seconds"}) == first.model_dump(exclude={"created", "seconds"})
    other = trained.model_copy(update={"transformer": make_other(tmp_path / "other", Path(trained.transformer.uri))})
    assert count_images((config, weights, prompts, other), tmp_path / "other", scores_dir=scores) == {"candidate": 12}
    longer = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"num_steps": 3})})
    assert count_images((longer, *inputs[1:]), tmp_path / "longer", scores_dir=scores) == {"base": 12, "candidate": 12}
    words = config.model_copy(update={"preference": config.preference.model_copy(update={"positive": ("Red",)})})
    assert count_images((words, *inputs[1:]), tmp_path / "words", scores_dir=scores) == {"base": 12, "candidate": 12}


class Stopped(Exception):  # noqa: N818
    """What stops an evaluation in the middle."""


def test_an_interrupted_evaluation_goes_on_in_more_processes_with_the_same_result(
    inputs: Inputs, evaluated: Evaluated, tmp_path: Path
) -> None:
    def stop(activity: str, done: int, total: int) -> None:
        if (activity, done) == ("candidate images", 3):
            raise Stopped

    config, *others = inputs
    with pytest.raises(Stopped):
        evaluate(*inputs, tmp_path / "stopped", stop, scores_dir=tmp_path / "scores")
    assert not (tmp_path / "stopped" / "report.json").exists()
    seen: list[tuple[str, int, int]] = []
    two = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"num_processes": 2})})
    evaluate(two, *others, tmp_path / "on", lambda *report: seen.append(report), scores_dir=tmp_path / "scores")
    assert [activity for activity, *_ in seen] == ["candidate images"] * 3  # the three batches that are left
    assert seen[-1][1:] == (12, 12)
    found = Report.model_validate_json((tmp_path / "on" / "report.json").read_text(encoding="utf-8"))
    same = {"created", "seconds", "provenance"}
    assert found.model_dump(exclude=same) == load(evaluated).model_dump(exclude=same)


def test_scores_that_are_not_finite_are_a_collapse_with_a_report(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_and_score = run.draw_and_score

    def overflow(*arguments: Any) -> Measured:
        measured = draw_and_score(*arguments)
        measured.scores["candidate"]["relative"][2] = float("nan")
        return measured

    monkeypatch.setattr(run, "draw_and_score", overflow)
    report = load(evaluate(*inputs, tmp_path))
    assert report.verdict == "collapsed"
    assert report.reason.startswith("The model is damaged: 1 of 12 images of candidate have scores that are not finite")
    assert (report.num_prompts, len(report.images)) == (5, 10)
    assert JUDGED[1] in report.reason and JUDGED[1] not in {image.prompt for image in report.images}


def test_a_champion_of_such_scores_leaves_a_verdict_against_the_base(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_and_score = run.draw_and_score
    same = Contender(label="champion", reference="models:/own/1", model=inputs[0].model, base=inputs[1].model)
    monkeypatch.setattr(run, "find_champion", lambda *_: Champion("models:/own/1", same, ""))

    def overflow(*arguments: Any) -> Measured:
        measured = draw_and_score(*arguments)
        measured.scores["champion"]["relative"][2] = float("nan")
        return measured

    monkeypatch.setattr(run, "draw_and_score", overflow)
    report = load(evaluate(*inputs, tmp_path, registry_uri="sqlite://"))
    assert report.champion is None and report.undrawn
    assert report.undrawn.problem.startswith("1 of 12 images of champion have scores that are not finite (relative;")
    assert report.reason.endswith(f"was left out: {report.undrawn.problem}.")
    assert [model.label for model in report.models] == ["base", "candidate"]
    assert report.num_prompts == 6


def test_a_gpu_that_is_too_small_is_told_with_what_spares_memory(
    inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(measure, "load_model", fill)
    with pytest.raises(GpuMemoryError, match=r"\(CUDA out of memory\); set evaluation.batch_size lower"):
        evaluate(*inputs, tmp_path)


def test_progress_is_reported_for_both_models(inputs: Inputs, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate(*inputs, tmp_path, lambda *report: seen.append(report))
    assert seen == [(f"{name} images", done, 12) for name in ("base", "candidate") for done in (3, 6, 9, 12)]


def test_the_page_escapes_what_others_wrote(evaluated: Evaluated) -> None:
    text = page(evaluated)
    assert text.count("<script") == 1
    assert "&lt;script&gt;alert(&#39;red&#39;)&lt;/script&gt; &amp; &#34;circle&#34;" in text
    assert "<b>fell</b>" not in text


def test_the_page_needs_no_network(evaluated: Evaluated) -> None:
    sources = re.findall(r'(?:src|href)="([^"]*)"', page(evaluated))
    assert len(sources) > 8
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "url(" not in page(evaluated)
    assert "@import" not in page(evaluated)


def test_the_page_shows_verdict_metrics_curves_and_images(evaluated: Evaluated) -> None:
    report, text = load(evaluated), page(evaluated)
    assert text.index(report.verdict) < text.index("candidate against base")
    assert all(f'<th scope="row">{name.replace("_", " ")}' in text for name in report.metrics)
    curves = re.findall(r'aria-label="([^"]*) over the updates"', text)
    assert curves == ["relative", "reward", "luminance", "spread", "loss (training)", "gradient norm (training)"]
    assert text.count("update 10: ") == 4
    assert text.count('<figure class="pair card"') == 12
    assert len(text) < 300_000


def test_an_embedded_world_adds_what_its_captions_let_us_measure(
    flux_folder: Path, hps_folder: Path, tmp_path: Path
) -> None:
    inputs = make_inputs(tmp_path, flux_folder, hps_folder, heldout_captions()[:7], world="shapes", wanted="luminance")
    report = load(evaluate(*inputs, tmp_path / "evaluation"))
    assert {"content", "texture"} < set(report.metrics)
    assert {pair.scores["base"]["content"] for pair in report.images} <= {0.0, 1.0}
    assert ">wrong<" in page(evaluate(*inputs, tmp_path / "evaluation"))


def test_a_held_out_score_is_measured_and_may_decide(flux_folder: Path, hps_folder: Path, tmp_path: Path) -> None:
    copy = shutil.copy(hps_folder / "HPS_tiny.pt", tmp_path)
    judge = str(hps_folder / "tiny.json")
    score = ScoreConfig(family="hps", source=str(copy), architecture=judge, positive=("Bright",))
    config, weights, *others = make_inputs(
        tmp_path,
        flux_folder,
        hps_folder,
        HELD_OUT,
        scores={"held": score.model_dump()},
        grid_periods=[4, 8],
        gate=[{"metric": "relative/held", "min_change": 9}],
    )
    with pytest.raises(ConfigError, match=r"evaluation\.scores\.held was not fetched when this run began"):
        evaluate(config, weights, *others, tmp_path / "evaluation")
    weights = weights.model_copy(update={"scores": {"held": fetch_score("held", score)}})
    evaluated = evaluate(config, weights, *others, tmp_path / "evaluation")
    report = load(evaluated)
    assert {"held", "relative/held", "grid/4", "grid/8"} < set(report.metrics)
    assert report.trained_metrics == ["reward", "relative", "held", "relative/held"], "its content is the reward's"
    assert report.metrics["held"].reference == pytest.approx(report.metrics["reward"].reference)
    assert not evaluated.passed and [check.metric for check in report.checks] == ["relative/held"]
    assert report.provenance.hashes["score_held"] == weights.scores["held"].checkpoint.sha256
    assert '<th scope="row">relative/held' in page(evaluated)


@pytest.mark.parametrize("judge", ["reward", "held"])
def test_diversity_is_seen_by_the_judge_that_is_named(
    flux_folder: Path, hps_folder: Path, clip_folder: Path, tmp_path: Path, judge: str
) -> None:
    score = ScoreConfig(family="pick_score", source=str(clip_folder))
    settings = {"scores": {"held": score.model_dump()}, "diversity_by": judge, "seeds_per_prompt": 3}
    config, weights, *others = make_inputs(tmp_path, flux_folder, hps_folder, HELD_OUT, **settings)
    weights = weights.model_copy(update={"scores": {"held": fetch_score("held", score)}})
    report = load(evaluate(config, weights, *others, tmp_path / "evaluation"))
    eyes = load_reward(config.reward, hps_folder) if judge == "reward" else load_score("held", score, clip_folder, None)
    for index in range(0, len(report.images), 3):
        shown = [picture_path(tmp_path / "evaluation" / IMAGES, report, index + i, "base") for i in range(3)]
        images = torch.stack([to_tensor(Image.open(path).convert("RGB")) for path in shown])
        cosines = eyes.features(images) @ eyes.features(images).T
        found = [image.scores["base"]["diversity"] for image in report.images[index : index + 3]]
        assert found == pytest.approx((3 - cosines.sum(1)) / 2, rel=0.02), "but for pixels of 8 bits and float16"


def test_too_few_prompts_for_an_interval_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    config, *others = inputs
    few = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"num_prompts": 4})})
    with pytest.raises(ConfigError, match=r"evaluation\.num_prompts leave 4 of 8 held-out prompts .* at least 5"):
        evaluate(few, *others, tmp_path / "evaluation")


def test_a_metric_that_is_not_measured_is_refused_before_any_work(inputs: Inputs, tmp_path: Path) -> None:
    config, *others = inputs
    unknown = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"wanted": "beauty"})})
    with pytest.raises(ConfigError, match=r"evaluation\.wanted: no metric named 'beauty'"):
        evaluate(unknown, *others, tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


def test_a_list_sorted_by_category_is_judged_on_all_of_them(inputs: Inputs, tmp_path: Path) -> None:
    config, weights, _, trained = inputs
    words = ("red", "green", "blue", "cyan", "pink", "yellow")
    rows = [f"a {word} {shape},{shape}" for shape in ("circle", "square") for word in words]
    (tmp_path / "sorted.csv").write_text("\n".join(["prompt,category", *rows]), encoding="utf-8")
    settings = config.evaluation.model_copy(update={"num_prompts": 5, "seeds_per_prompt": 1})
    update = {"held_out": str(tmp_path / "sorted.csv")}
    config = config.model_copy(update={"prompts": config.prompts.model_copy(update=update), "evaluation": settings})
    prompts = embed_prompts(config.model, config.prompts, weights, tmp_path / "embeddings")
    report = load(evaluate(config, weights, prompts, trained, tmp_path / "evaluation"))
    assert [image.category for image in report.images] == ["circle"] * 3 + ["square"] * 2
