"""Any number of models, whatever made them, on the same prompts and noise; the first is what the others stand against.

They are drawn alike: size, length of the text, steps and guidance are those of the config, whatever a registered model
was trained with.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from srpo.artifacts import Weights
from srpo.config import RunConfig
from srpo.errors import ConfigError
from srpo.evaluation.contender import Contender, drawn_alike
from srpo.evaluation.findings import contrast, gather, journal_in, make_report, publish, trained_by
from srpo.evaluation.finite import Finite, leave_out
from srpo.evaluation.gate import Judgement, check_metrics, describe_change, judge
from srpo.evaluation.images import ReportProgress, make_design
from srpo.evaluation.measure import draw_and_score
from srpo.evaluation.provenance import trace
from srpo.evaluation.published import check_benchmark
from srpo.evaluation.scores import check_captions
from srpo.evaluation.statistics import measure_levels
from srpo.hub import snapshot
from srpo.models import check_guidance, check_model
from srpo.prompts import Prompt, embed_texts, load_prompt_set, read_prompts
from srpo.prompts.split import take
from srpo.reference import find_model, is_whole, names_files
from srpo.registry import load_report
from srpo.report.page import kept_study
from srpo.report.schema import Contrast, Provenance, Report
from srpo.sample_size import MIN_PROMPTS
from srpo.shards import StoredRows
from srpo.weights import fetch_judges
from srpo.wording import capitalised, number


def evaluate_models(
    references: Sequence[str],
    config: RunConfig,
    output_dir: Path,
    embeddings_dir: Path,
    scores_dir: Path | None = None,
    uri: str | None = None,
    base: str | None = None,
    progress: ReportProgress | None = None,
) -> Report:
    """Evaluate models on all prompts of `config.prompts.held_out`; writes `report.json` and `report.html`.

    References as `generate --model` takes them; with `base`, what is no whole model is a transformer on it. The second
    model is judged by the gate. ConfigError, before anything is drawn, for whatever cannot be evaluated.
    """
    started = time.perf_counter()
    listed, places = _check(references, config)
    prompts = [listed[place] for place in places]
    contenders = [find_contender(reference, config, uri, base) for reference in references]
    study = kept_study(output_dir, {one.label: (one.transformer_sha256, one.base.sha256) for one in contenders})
    weights = fetch_judges(contenders[0].base, config.reward, config.evaluation.scores, config.rewards)
    texts, embeddings = [(config.prompts.held_out, prompts)], {}
    for one in contenders:
        (stored,) = embed_texts(one.model, config.prompts, one.base, embeddings_dir, texts)
        embeddings[one.label] = _at(places, load_prompt_set(stored)[1])
    design = make_design(listed, places, config.evaluation.seeds_per_prompt, config.seed)
    output_dir.mkdir(parents=True, exist_ok=True)
    with journal_in(scores_dir, config.storage) as journal:
        drawn = draw_and_score(contenders, config, weights, embeddings, design, journal, progress)
        finite = leave_out(drawn, "".join(references[1:2]))
        measured = finite.measured
        contrasts = [contrast(config, measured, references[0], other) for other in [*measured.scores][1:]]
        report = make_report(
            config,
            measured,
            [one for one in contenders if one.label in measured.scores],
            contrasts,
            _judge(config, finite, contrasts),
            _provenance(config, weights, prompts),
            time.perf_counter() - started,
            trained_metrics=_trained_metrics(contenders[:2][-1], weights, uri),
        )
        report = report.model_copy(update={"study": study})
        return publish(report, measured, config.evaluation.num_report_images, output_dir)[0]


def find_contender(reference: str, config: RunConfig, uri: str | None = None, base: str | None = None) -> Contender:
    """A model by its reference, known by content and checked; nothing is loaded."""
    lone = base is not None and names_files(reference) and not is_whole(reference)
    files = find_model(reference, config if names_files(reference) else None, uri, base if lone else None)
    model = drawn_alike(files.model, config)
    check_model(model, files.base)
    check_guidance(model, files.base, {"evaluation.guidance": config.evaluation.guidance})
    return Contender(
        label=reference,
        reference=files.reference,
        model=model,
        base=snapshot(files.base, base if base and lone else reference),
        transformer=snapshot(files.transformer, reference) if files.transformer else None,
    )


def _at(places: Sequence[int], rows: StoredRows) -> StoredRows:
    """Rows of the prompts at these places of their file, by place: noise depends on it, so that scores are shared."""
    shard_of, row_of = (dict(zip(places, listed, strict=True)) for listed in (rows.shard_of, rows.row_of))
    return StoredRows(rows.folder, rows.shards, shard_of, row_of)


def _check(references: Sequence[str], config: RunConfig) -> tuple[list[Prompt], list[int]]:
    """All prompts of the file, and the places of those that are used, if they and the settings can serve."""
    check_metrics(config)
    if repeated := [one for one, following in pairwise(sorted(references)) if one == following]:
        raise ConfigError(f"{repeated[0]} is named twice; a model against itself shows no difference")
    prompts = read_prompts(config.prompts.held_out, "held_out", config.prompts.max_characters)
    check_benchmark(config.evaluation, len(prompts))
    places = take([prompt.category for prompt in prompts], config.evaluation.num_prompts)
    if len(places) < MIN_PROMPTS:
        raise ConfigError(
            f"{config.prompts.held_out} and evaluation.num_prompts give {len(places)} prompts, but an interval needs "
            f"at least {MIN_PROMPTS}; give more"
        )
    if config.evaluation.world:
        check_captions([prompts[place].text for place in places])
    return prompts, places


def _judge(config: RunConfig, finite: Finite, contrasts: Sequence[Contrast]) -> Judgement:
    """The gate's verdict on the second model; of a single one, what was found."""
    settings, measured = config.evaluation, finite.measured
    if contrasts:
        first, *others = contrasts
        judgement = judge(config, gather(config, measured, first), broken_scores=finite.damage)
        moved = [describe_change(settings.wanted, one.metrics[settings.wanted], settings.confidence) for one in others]
        more = "".join(f" {one.candidate}: {change}." for one, change in zip(others, moved, strict=True))
        more += "".join(f" {label} is left out: {problem}." for label, problem in finite.left_out.items())
        return replace(judgement, reason=f"{first.candidate} against {first.reference}: {judgement.reason}{more}")
    (label,) = measured.scores
    level = measure_levels(measured.by_prompt(label), settings, config.seed)[settings.wanted]
    interval = f"{100 * settings.confidence:g} % interval {number(level.lower)} to {number(level.upper)}"
    return Judgement(None, f"{capitalised(settings.wanted)} of {label}: {number(level.value)} ({interval}).")


def _trained_metrics(judged: Contender, weights: Weights, uri: str | None) -> list[str]:
    """Metrics here of the judges that a registered model was trained with, as its report says."""
    report = load_report(uri, judged.reference) if uri and judged.reference.startswith("models:/") else None
    return trained_by(weights, report.provenance.hashes) if report else []


def _provenance(config: RunConfig, weights: Weights, prompts: Sequence[Prompt]) -> Provenance:
    digest = hashlib.sha256(json.dumps(prompts).encode()).hexdigest()
    judges = {name: files for name, files in weights.snapshots.items() if name != "model"}
    hashes = {name: files.sha256 for name, files in judges.items()} | {"held_out_prompts": digest}
    sources = {name: files.source for name, files in judges.items()} | {"held_out_prompts": config.prompts.held_out}
    return trace(config, hashes, sources, {name: files.licence for name, files in weights.snapshots.items()})
