"""Work and memory of an update at FLUX.1-dev's size, counted without weights: `python benchmarks/counts.py`.

Every hardware preset on the HPSv2.1 recipe, with rollouts and on real images, beside the figures of the recipe as
published, counted by hand. Operations and forwards of the transformer are per image, GiB per process.
"""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from srpo.config import RunConfig, load_config
from srpo.forecast.cost import Cost, count
from srpo.forecast.price import predict
from srpo.models import model_skeleton, text_skeleton
from srpo.rewards import reward_skeleton

CONFIGS = Path(__file__).parent.parent / "configs"
FLUX_DEV = Path(__file__).parent / "flux_dev"
"""FLUX.1-dev's published config files, without weights."""
ROLLOUTS, IMAGES = "flux_hpsv2", "flux_offline"
BY_HAND = "33 forwards of 37.28 TFLOP, and 205 GiB: fp32 weights, gradients and moments, copies in bf16"


def cost_of(hardware: str | None, recipe: str = ROLLOUTS) -> tuple[RunConfig, Cost]:
    """A recipe, on a preset's hardware or as published."""
    preset = [CONFIGS / "hardware" / f"{hardware}.yaml"] if hardware else []
    config = load_config([CONFIGS / f"{recipe}.yaml", *preset])
    reward = reward_skeleton(config.reward, Path("HPS_v2.1_compressed.pt"))
    cost = count(config, model_skeleton(config.model, FLUX_DEV), [reward], text_skeleton(config.model, FLUX_DEV))
    assert cost, "there is no limit to what it may need"
    return config, cost


def main() -> None:
    """Print the table."""
    phases = ("embed", "train", "evaluate")
    table = Table("preset", "TFLOP", "forwards", "weights", "moments", "working", *phases, "on images", "H100-hours")
    for hardware in (None, *sorted(path.stem for path in (CONFIGS / "hardware").glob("*.yaml"))):
        config, cost = cost_of(hardware)
        _, offline = cost_of(hardware, IMAGES)
        images = config.train.batch_size * config.train.accumulation
        sizes = [size / 2**30 for size in (cost.weights, cost.optimizer, cost.working, *cost.phases.values())]
        work = f"{(cost.rollout + cost.gradient) / images / 1e12:.0f}"
        forwards, on_images = (f"{each.forward_equivalents / images:.1f}" for each in (cost, offline))
        gib = (f"{size:.1f}" for size in sizes)
        table.add_row(hardware or "published", work, forwards, *gib, on_images, _hours(config, cost))
    console = Console()
    console.print(table)
    console.print("on images: forwards of an update on real images, which has no rollout; memory is the same")
    console.print("H100-hours: updates of all processes + held-out measurements + evaluation of base and candidate")
    console.print(f"counted by hand for the recipe as published: {BY_HAND}")


def _hours(config: RunConfig, cost: Cost) -> str:
    """At the share of the peak that training usually reaches, whether the memory would do or not."""
    hours = predict(config, cost, "H100")
    parts = hours.hours * config.train.num_processes, hours.measuring_hours, hours.evaluation_hours
    return " + ".join(f"{part:.2f}" for part in parts)


if __name__ == "__main__":
    main()
