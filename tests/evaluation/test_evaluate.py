"""The whole evaluation on small untrained models of the real classes: files, repeatability, the page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel

from srpo.artifacts import Evaluated, PromptSets, Trained, Weights
from srpo.config import RunConfig, ScoreConfig, parse_config
from srpo.errors import ConfigError
from srpo.evaluation import evaluate
from srpo.evaluation.schema import Report
from srpo.hub import snapshot
from srpo.prompts import embed_prompts
from srpo.shapes import heldout_captions
from srpo.weights import fetch_score

HOSTILE = "a <script>alert('red')</script> & \"circle\""
HELD_OUT = ["a red circle", "a blue ring on a red background", HOSTILE, "a green cross"]
Inputs = tuple[RunConfig, Weights, PromptSets, Trained]


def make_inputs(folder: Path, flux: Path, hps: Path, held_out: list[str], **evaluation: Any) -> Inputs:
    """A run whose training is done: the trained transformer is the base's with a little noise."""
    for name, lines in (("train", ["a red ring"]), ("held_out", held_out)):
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    data = {
        "model": {"source": str(flux), "height": 32, "width": 32, "max_sequence_length": 12},
        "reward": {"source": str(hps / "HPS_tiny.pt"), "architecture": str(hps / "tiny.json")},
        "prompts": {"train": str(folder / "train.txt"), "held_out": str(folder / "held_out.txt")},
        "evaluation": {"num_steps": 2, "seeds_per_prompt": 2, "batch_size": 3, "num_resamples": 100, **evaluation},
    }
    config = parse_config(data, "test")
    weights = Weights(model=snapshot(flux, "flux"), reward=snapshot(hps / "HPS_tiny.pt", "hps"))
    prompts = embed_prompts(config.model, config.prompts, weights, folder / "embeddings")
    return config, weights, prompts, make_trained(folder / "training", flux)


def make_trained(folder: Path, flux: Path) -> Trained:
    transformer = FluxTransformer2DModel.from_pretrained(flux / "transformer")
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    transformer.save_pretrained(folder / "transformer")
    updates = [{"update": update, "loss": 0.5 - 0.01 * update, "grad_norm": 1.0} for update in range(1, 11)]
    measured = [
        {
            "update": update,
            "relative": 0.01 * update,
            "violations": broken,
            "luminance": 0.4,
            "spread": 0.1,
            "reward": 1,
        }
        for update, broken in ((0, []), (5, []), (10, ["spread <b>fell</b>"]))
    ]
    for name, entries in (("metrics.jsonl", updates), ("heldout.jsonl", measured)):
        (folder / name).write_text("".join(f"{json.dumps(entry)}\n" for entry in entries), encoding="utf-8")
    return Trained(
        output_dir=str(folder),
        transformer=snapshot(folder / "transformer", "update 5"),
        best_update=5,
        num_updates=10,
        seconds=1.0,
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, flux_folder: Path, hps_folder: Path) -> Inputs:
    return make_inputs(tmp_path_factory.mktemp("evaluate"), flux_folder, hps_folder, HELD_OUT)


@pytest.fixture(scope="module")
def evaluated(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    return evaluate(*inputs, tmp_path_factory.mktemp("report") / "evaluation")


def load(evaluated: Evaluated) -> Report:
    return Report.model_validate_json(Path(evaluated.report_json).read_text(encoding="utf-8"))


def page(evaluated: Evaluated) -> str:
    return Path(evaluated.report_html).read_text(encoding="utf-8")


def test_the_report_holds_every_pair_and_the_verdict(inputs: Inputs, evaluated: Evaluated) -> None:
    report = load(evaluated)
    assert len(report.images) == len({(pair.prompt, pair.seed) for pair in report.images}) == 8
    assert [pair.prompt for pair in report.images[::2]] == HELD_OUT
    assert (evaluated.verdict, evaluated.reason, evaluated.passed) == (report.verdict, report.reason, report.passed)
    assert report.metrics["relative"].reference == pytest.approx(
        sum(pair.scores["base"]["relative"] for pair in report.images) / 8
    )
    assert len(report.checks) == 7
    assert report.provenance.hashes["transformer"] == inputs[3].transformer.sha256
    assert [entry["update"] for entry in report.curves.held_out] == [0, 5, 10]


def test_the_two_models_differ_and_nothing_else_is_left_behind(evaluated: Evaluated) -> None:
    assert all(pair.scores["base"] != pair.scores["candidate"] for pair in load(evaluated).images)
    assert sorted(path.name for path in Path(evaluated.report_json).parent.iterdir()) == ["report.html", "report.json"]


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


def test_progress_is_reported_for_both_models(inputs: Inputs, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate(*inputs, tmp_path, lambda *report: seen.append(report))
    assert seen == [(f"{name} images", done, 8) for name in ("base", "candidate") for done in (3, 6, 8)]


def test_the_page_escapes_what_others_wrote(evaluated: Evaluated) -> None:
    text = page(evaluated)
    assert "<script" not in text
    assert "&lt;script&gt;alert(&#39;red&#39;)&lt;/script&gt; &amp; &#34;circle&#34;" in text
    assert "<b>fell</b>" not in text


def test_the_page_needs_no_network(evaluated: Evaluated) -> None:
    sources = re.findall(r'(?:src|href)="([^"]*)"', page(evaluated))
    assert len(sources) > 8
    assert all(source.startswith("data:") for source in sources)
    assert "url(" not in page(evaluated)
    assert "@import" not in page(evaluated)


def test_the_page_shows_verdict_metrics_curves_and_images(evaluated: Evaluated) -> None:
    report, text = load(evaluated), page(evaluated)
    assert text.index(report.verdict) < text.index("Metrics")
    assert all(f'<th scope="row">{name}' in text for name in report.metrics)
    assert text.count("<polyline") == 6  # relative, reward, luminance, spread; loss, gradient norm
    assert text.count('class="damaged"') == 4
    assert text.count('<figure class="pair card">') == 16  # of 8 pairs the worse half, the better half, and all again
    assert len(text) < 300_000


def test_an_embedded_world_adds_what_its_captions_let_us_measure(
    flux_folder: Path, hps_folder: Path, tmp_path: Path
) -> None:
    inputs = make_inputs(tmp_path, flux_folder, hps_folder, heldout_captions()[:3], world="shapes", wanted="luminance")
    report = load(evaluate(*inputs, tmp_path / "evaluation"))
    assert {"content", "texture"} < set(report.metrics)
    assert {pair.scores["base"]["content"] for pair in report.images} <= {0.0, 1.0}
    assert "wrong → " in page(evaluate(*inputs, tmp_path / "evaluation"))


def test_a_held_out_score_is_measured_and_may_decide(flux_folder: Path, hps_folder: Path, tmp_path: Path) -> None:
    score = ScoreConfig(family="hps", source=str(hps_folder), architecture="tiny.json", positive=("Bright",))
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
    assert report.metrics["held"].base == pytest.approx(report.metrics["reward"].base)
    assert not evaluated.passed and [check.metric for check in report.checks] == ["relative/held"]
    assert report.provenance.hashes["score_held"] == weights.scores["held"].checkpoint.sha256
    assert '<th scope="row">relative/held' in page(evaluated)


def test_a_single_prompt_is_refused(inputs: Inputs, tmp_path: Path) -> None:
    config, *others = inputs
    single = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"num_prompts": 1})})
    with pytest.raises(ConfigError, match="1 held-out prompt cannot show"):
        evaluate(single, *others, tmp_path / "evaluation")


def test_a_metric_that_is_not_measured_is_refused_before_any_work(inputs: Inputs, tmp_path: Path) -> None:
    config, *others = inputs
    unknown = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"wanted": "beauty"})})
    with pytest.raises(ConfigError, match=r"evaluation\.wanted: no metric named 'beauty'"):
        evaluate(unknown, *others, tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()
