"""Builds weights as they ship with the package: `python -m srpo.shapes.build --output DIR [--only STAGE ...]`.

About half an hour on two cores. Stages: vae, reward, biased (it needs the reward), transformer (it needs the vae),
oracle. After them figures of all are measured on the files as saved, after rounding; each stage adds its seconds to
`figures.json`.
"""

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

from srpo.shapes.build import stages

logger = logging.getLogger(__name__)
STAGES: dict[str, Callable[[Path, int, float], None]] = {
    "vae": stages.build_vae,
    "reward": stages.build_reward,
    "biased": stages.build_biased,
    "transformer": stages.build_transformer,
    "oracle": stages.build_oracle,
}


def build(output: Path, names: list[str], seed: int, scale: float = 1.0) -> None:
    """Runs the stages in order; `scale` shortens every training."""
    for name in names:
        start = time.perf_counter()
        STAGES[name](output, seed, scale)
        seconds = time.perf_counter() - start
        logger.info("%s: %.0f s", name, seconds)
        stages.record(output, {"seconds": {name: round(seconds)}})
    stages.record(output, stages.measure(output))
    logger.info("figures: %s", json.dumps(stages.read_figures(output), indent=2))


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m srpo.shapes.build", description="Builds the Shapes weights.")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for the weights")
    parser.add_argument("--only", nargs="+", choices=list(STAGES), default=list(STAGES), help="stages to run")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    build(arguments.output, [name for name in STAGES if name in arguments.only], arguments.seed)


if __name__ == "__main__":
    main()
