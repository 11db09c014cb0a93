"""What was published for the prompts of a benchmark, to stand beside what is measured on them.

    hpdv2   FLUX.1-dev and what five methods made of it, on the 3,200 prompts of HPDv2's benchmark (arXiv:2509.06942)

Figures belong to a score's family, whatever a run calls the score. Steps, size and seeds of their pictures are those of
their authors. HPSv2.1 is `hps`; columns of scores that are not measured here are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from srpo.config import EvaluationConfig
from srpo.errors import ConfigError
from srpo.report.schema import Published


@dataclass(frozen=True)
class Benchmark:
    """A published list of prompts, and the means that were published for it."""

    citation: str
    num_prompts: int
    figures: Mapping[str, Mapping[str, float]]
    """Model -> family of the score -> mean."""

    @property
    def families(self) -> list[str]:
        """Scores that there are figures of."""
        return sorted(next(iter(self.figures.values())))


BENCHMARKS = {
    "hpdv2": Benchmark(
        citation="arXiv:2509.06942",
        num_prompts=3200,
        figures={
            "FLUX.1-dev": {"aesthetic": 5.867, "pick_score": 22.671, "image_reward": 1.115, "hps": 0.289},
            "ReFL": {"aesthetic": 5.903, "pick_score": 22.975, "image_reward": 1.195, "hps": 0.298},
            "DRaFT-LV": {"aesthetic": 5.729, "pick_score": 22.932, "image_reward": 1.178, "hps": 0.296},
            "DanceGRPO": {"aesthetic": 6.022, "pick_score": 22.803, "image_reward": 1.218, "hps": 0.297},
            "Direct-Align": {"aesthetic": 6.032, "pick_score": 23.030, "image_reward": 1.223, "hps": 0.294},
            "SRPO": {"aesthetic": 6.194, "pick_score": 23.040, "image_reward": 1.118, "hps": 0.289},
        },
    )
}
"""By the name that `evaluation.benchmark` gives."""


def find_published(settings: EvaluationConfig) -> Published | None:
    """The figures that belong beside this evaluation; None if its prompts are no benchmark's."""
    if settings.benchmark is None:
        return None
    benchmark = BENCHMARKS[settings.benchmark]
    columns = {name: score.family for name, score in settings.scores.items() if score.family in benchmark.families}
    return Published(
        citation=benchmark.citation,
        num_prompts=benchmark.num_prompts,
        figures={
            model: {name: figures[family] for name, family in columns.items()}
            for model, figures in benchmark.figures.items()
        },
    )


def check_benchmark(settings: EvaluationConfig, num_held_out: int) -> None:
    """ConfigError where an evaluation on so many held-out prompts cannot stand beside the benchmark it names."""
    if settings.benchmark is None:
        return
    benchmark, key = BENCHMARKS[settings.benchmark], f"evaluation.benchmark: {settings.benchmark}"
    if not any(score.family in benchmark.families for score in settings.scores.values()):
        raise ConfigError(f"{key} has figures of {', '.join(benchmark.families)}; evaluation.scores names none of them")
    if num_held_out != benchmark.num_prompts:
        raise ConfigError(f"{key} has {benchmark.num_prompts} prompts, but prompts.held_out holds {num_held_out}")
    if settings.num_prompts < num_held_out:
        raise ConfigError(
            f"{key}: its figures are means over the whole list, of which evaluation.num_prompts takes "
            f"{settings.num_prompts} of {num_held_out}; set evaluation.num_prompts={benchmark.num_prompts}"
        )
