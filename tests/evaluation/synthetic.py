"""A report made up from a seed: scores, pictures of the size asked for, categories, and any number of models."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from srpo.config import EvaluationConfig, RunConfig
from srpo.evaluation.statistics import compare
from srpo.report.page import write_report
from srpo.report.schema import Contrast, Curves, GateCheck, ImageSet, Provenance, Report, Subject
from srpo.report.thumbnails import choose, keep_pictures

METRICS = ("relative", "reward", "luminance", "saturation")
CATEGORIES = ("people", "animals  <&>", "food")
SETTINGS = EvaluationConfig(num_resamples=100)


def make_report(
    labels: Sequence[str] = ("base", "candidate"), num_prompts: int = 8, num_seeds: int = 2, seed: int = 0
) -> Report:
    """The later a model, the higher its scores; the same labels and seed give the same scores."""
    scores = {
        label: np.random.default_rng([seed, *label.encode()]).normal(
            0.2 * place, 0.3, (len(METRICS), num_prompts, num_seeds)
        )
        for place, label in enumerate(labels)
    }
    columns = {label: dict(zip(METRICS, values, strict=True)) for label, values in scores.items()}
    first, *others = labels
    judged = others[0] if others else first
    contrasts = [
        Contrast(reference=label, candidate=judged, metrics=compare(columns[label], columns[judged], SETTINGS, seed))
        for label in labels
        if label != judged
    ]
    check = GateCheck(metric="relative", against=first, limit="min_change", threshold=0.0, value=0.1, held=True)
    images = [
        ImageSet(
            prompt_index=prompt,
            prompt=f"prompt {prompt} of a <b>test</b>",
            category=CATEGORIES[prompt % 3],
            seed=1000 * prompt + number,
            scores={label: {name: float(columns[label][name][prompt, number]) for name in METRICS} for label in labels},
        )
        for prompt in range(num_prompts)
        for number in range(num_seeds)
    ]
    return Report(
        name="synthetic",
        created="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        verdict="promote",
        reason="Relative rose by 0.2 (95 % interval +0.100 to +0.300), and the gate's one limit holds.",
        damage=[],
        wanted="relative",
        confidence=0.95,
        num_prompts=num_prompts,
        seeds_per_prompt=num_seeds,
        models=[
            Subject(label=label, reference=f"models:/{label}/1", transformer_sha256=64 * label[0]) for label in labels
        ],
        contrasts=contrasts,
        checks=[check] if contrasts else [],
        curves=Curves(updates=[{"update": 1, "loss": 0.5}], best_update=1, num_updates=1, seconds=1.0),
        images=images,
        provenance=Provenance(
            code={"version": "0"},
            packages={"python": "3"},
            device="CPU",
            hashes={"reward": 64 * "e"},
            sources={"model": "builtin:shapes"},
            config=RunConfig(seed=seed, evaluation=SETTINGS).model_dump(mode="json"),
        ),
    )


def write_synthetic(folder: Path, report: Report, size: int = 48, count: int = 60) -> Path:
    """The report with pictures of `size` pixels, written into the folder; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = folder / "drawn.bmp"

    def draw(index: int, label: str) -> Path:
        make_picture(size, index, label).save(drawn)
        return drawn

    kept = keep_pictures(report, draw, folder, choose(report, count))
    drawn.unlink()
    return write_report(kept, folder)


def make_picture(size: int, index: int, label: str) -> Image.Image:
    """Waves under grain, harder to compress than most photographs; no two are alike."""
    generator = np.random.default_rng([index, *label.encode()])
    place = np.linspace(0, 1, size)
    waves = np.sin(np.multiply.outer(place, generator.uniform(2, 40, (2, 3))))
    grain = generator.integers(-40, 41, (size, size, 1), dtype=np.int16)
    pixels = 128 + 55 * (waves[:, None, 0] + waves[None, :, 1])
    return Image.fromarray(np.clip(pixels.astype(np.int16) + grain, 0, 255).astype(np.uint8))
