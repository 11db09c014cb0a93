"""From what was measured to what the gate judges by."""

import numpy as np

from srpo.config import EvaluationConfig, RunConfig
from srpo.evaluation.findings import contrast, gather
from srpo.evaluation.images import Cell
from srpo.evaluation.measure import Measured


def test_the_gate_judges_by_wider_intervals_than_those_shown() -> None:
    config = RunConfig(evaluation=EvaluationConfig(num_resamples=500))
    design = [Cell(prompt, "a cat", "", number, 0) for prompt in range(20) for number in range(2)]
    scores = {
        label: {"luminance": np.random.default_rng(seed).normal(0.5, 0.1, len(design))}
        for seed, label in enumerate(("base", "candidate"))
    }
    measured = Measured(design, {}, scores)
    shown = contrast(config, measured, "base", "candidate")
    evidence = gather(config, measured, shown)
    assert evidence.against == "base" and evidence.shown is shown.metrics
    for name, row in evidence.shown.items():
        strict = evidence.strict[name]
        assert strict.change == row.change
        assert strict.lower < row.lower < row.upper < strict.upper
