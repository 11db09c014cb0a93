"""The evaluation of a training, as the step has it: the trained model beside its base and the champion."""

import time
from dataclasses import replace
from pathlib import Path

from srpo.artifacts import Evaluated, PromptSets, Trained, Weights
from srpo.config import RunConfig
from srpo.errors import ConfigError
from srpo.evaluation.champion import Champion, find_champion
from srpo.evaluation.contender import Contender
from srpo.evaluation.findings import contrast, gather, journal_in, make_report, publish, trained_by
from srpo.evaluation.finite import leave_out
from srpo.evaluation.gate import Judgement, check_metrics, judge
from srpo.evaluation.images import Cell, ReportProgress, make_design
from srpo.evaluation.measure import Measured, draw_and_score
from srpo.evaluation.provenance import trace
from srpo.evaluation.published import check_benchmark
from srpo.forecast.price import planned_gpu_hours
from srpo.prompts import Prompt, load_categories, load_prompt_set
from srpo.prompts.split import split_held_out, take
from srpo.provenance import data_hashes
from srpo.record import HELD_OUT, METRICS, read_journal
from srpo.report.schema import BASE, CANDIDATE, CHAMPION, Contrast, Curves, Provenance, Report
from srpo.report.tables import flat_table
from srpo.report.thumbnails import IMAGES
from srpo.sample_size import MIN_PROMPTS
from srpo.tracking import Tracker


def evaluate(
    config: RunConfig,
    weights: Weights,
    prompts: PromptSets,
    trained: Trained,
    output_dir: Path,
    progress: ReportProgress | None = None,
    scores_dir: Path | None = None,
    registry_uri: str | None = None,
) -> Evaluated:
    """Compare the trained model with its base and the champion; writes `report.json` and `report.html`.

    Scores and thumbnails are kept in `scores_dir`: an interrupted evaluation goes on there, and later ones find what
    they share; None keeps nothing. The champion is looked up in the MLflow store `registry_uri`; None knows of none.
    ConfigError if the config names a metric that is not measured, if there are too few prompts to compare, or if a
    score of the base is not finite.
    """
    started = time.perf_counter()
    check_metrics(config)
    texts, embeddings = load_prompt_set(prompts.held_out)
    check_benchmark(config.evaluation, len(texts))
    design = _design(config, [Prompt(*pair) for pair in zip(texts, load_categories(prompts.held_out), strict=True)])
    champion = find_champion(config, weights, trained, registry_uri) if registry_uri else None
    contenders = _contenders(config, weights, trained, champion)
    output_dir.mkdir(parents=True, exist_ok=True)
    with journal_in(scores_dir, config.storage) as journal:
        stored = {contender.label: embeddings for contender in contenders}
        drawn = draw_and_score(contenders, config, weights, stored, design, journal, progress)
        finite = leave_out(drawn, CANDIDATE)
        measured = finite.measured
        if champion and (problem := finite.left_out.get(CHAMPION)):
            champion = replace(champion, contender=None, problem=problem)
        contrasts = [contrast(config, measured, other, CANDIDATE) for other in measured.scores if other != CANDIDATE]
        provenance = _provenance(config, weights, prompts, trained)
        report = make_report(
            config,
            measured,
            [contender for contender in contenders if contender.label in measured.scores],
            contrasts,
            _judge(config, measured, contrasts, champion, finite.damage),
            provenance,
            time.perf_counter() - started,
            champion,
            read_curves(config, trained),
            list(dict.fromkeys((*config.trained_metrics, *trained_by(weights, provenance.hashes)))),
        )
        report, json_path, html_path = publish(report, measured, config.evaluation.num_report_images, output_dir)
    _track(report, json_path, html_path, output_dir / IMAGES)
    return Evaluated(
        report_json=str(json_path),
        report_html=str(html_path),
        passed=report.passed,
        verdict=str(report.verdict),
        reason=report.reason,
    )


def _design(config: RunConfig, prompts: list[Prompt]) -> list[Cell]:
    """Every image: the held-out prompts that the monitor has not seen, each with its seeds."""
    settings = config.evaluation
    _, places = split_held_out([prompt.category for prompt in prompts], config.monitor.share)
    places = [places[index] for index in take([prompts[place].category for place in places], settings.num_prompts)]
    if len(places) < MIN_PROMPTS:
        raise ConfigError(
            f"monitor.share and evaluation.num_prompts leave {len(places)} of {len(prompts)} held-out prompts for the "
            f"verdict, but an interval needs at least {MIN_PROMPTS}; give more prompts, or change the settings"
        )
    return make_design(prompts, places, settings.seeds_per_prompt, config.seed)


def _contenders(config: RunConfig, weights: Weights, trained: Trained, champion: Champion | None) -> list[Contender]:
    base = Contender(label=BASE, reference=weights.model.source, model=config.model, base=weights.model)
    candidate = Contender(
        label=CANDIDATE,
        reference=trained.transformer.source,
        model=config.model,
        base=weights.model,
        transformer=trained.transformer,
    )
    return [base, candidate, *([champion.contender] if champion and champion.contender else [])]


def _judge(
    config: RunConfig, measured: Measured, contrasts: list[Contrast], champion: Champion | None, broken: list[str]
) -> Judgement:
    """The gate's verdict on the candidate; where a champion was left out, the reason says why."""
    evidence = {shown.reference: gather(config, measured, shown) for shown in contrasts}
    judgement = judge(config, evidence[BASE], evidence.get(CHAMPION), broken)
    if champion is None or champion.contender:
        return judgement
    note = f"the champion {champion.reference} was left out: {champion.problem}"
    return replace(judgement, reason=f"{judgement.reason.removesuffix('.')}; {note}.")


def _provenance(config: RunConfig, weights: Weights, prompts: PromptSets, trained: Trained) -> Provenance:
    hashes = data_hashes(weights, prompts) | {"transformer": trained.transformer.sha256}
    sources = {name: files.source for name, files in weights.snapshots.items()}
    sources |= {"train_prompts": prompts.train.snapshot.source, "held_out_prompts": prompts.held_out.snapshot.source}
    sources |= {"images": prompts.images.snapshot.source} if prompts.images else {}
    licences = {name: files.licence for name, files in weights.snapshots.items()}
    return trace(config, hashes, sources, licences)


def read_curves(config: RunConfig, trained: Trained) -> Curves:
    """What the training that made a model wrote down."""
    folder, planned = Path(trained.output_dir), planned_gpu_hours(config) or {}
    return Curves(
        updates=read_journal(folder / METRICS),
        held_out=read_journal(folder / HELD_OUT),
        best_update=trained.best_update,
        num_updates=trained.num_updates,
        seconds=trained.seconds,
        gpu_hours=trained.gpu_hours,
        planned_gpu_hours=planned.get("train"),
        planned_evaluation_gpu_hours=planned.get("evaluate"),
        stopped=trained.stopped,
    )


def _track(report: Report, json_path: Path, html_path: Path, images: Path) -> None:
    """Log the numbers, the files and the pictures to MLflow."""
    tracker = Tracker.from_environment()
    shown = ("reference", "candidate", "change", "lower", "upper")
    tracker.log_metrics(
        {f"evaluation/{name}/{part}": getattr(row, part) for name, row in report.metrics.items() for part in shown},
        report.curves.best_update,
    )
    tracker.log_table(flat_table(report), "evaluation/metrics.json")
    for path in (json_path, html_path):
        tracker.log_artifact(path, "evaluation")
    tracker.log_artifact(images, f"evaluation/{IMAGES}")
