"""How long an evaluation of three models on 200 prompts takes: `python benchmarks/evaluation.py`.

On the embedded world: the base, and two models whose transformers differ a little from its; every content plain, and
fifty of them "Bright", one picture each. Drawn, scored, compared and written as the `evaluate` command does it, with
nothing kept from before. The bound is three minutes on two cores.
"""

import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console

from srpo.config import load_config
from srpo.evaluation.lineup import evaluate_models
from srpo.models import load_model
from srpo.shapes import WEIGHTS_DIR, heldout_captions, seen_captions
from srpo.shapes.render import styled

CONFIG = Path(__file__).parent.parent / "configs" / "shapes.yaml"
NUM_PROMPTS = 200


def captions() -> list[str]:
    """NUM_PROMPTS different prompts of the world."""
    plain = [*heldout_captions(), *seen_captions()]
    return [*plain, *(styled("Bright", caption) for caption in plain[: NUM_PROMPTS - len(plain)])]


def write_models(folder: Path) -> list[str]:
    """The base and two transformers beside it, as `evaluate` takes them."""
    base = WEIGHTS_DIR / "flux"
    references = ["builtin:shapes"]
    for seed in (1, 2):
        transformer = load_model(load_config(CONFIG).model, base).transformer
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in transformer.parameters():
                parameter.mul_(1 + 0.01 * torch.randn(parameter.shape, generator=generator))
        transformer.save_pretrained(folder / f"other-{seed}")
        references.append(str(folder / f"other-{seed}"))
    return references


def main(folder: Path) -> None:
    """Evaluate, and print how long it took."""
    prompts = folder / "prompts.txt"
    prompts.write_text("\n".join(captions()), encoding="utf-8")
    models = write_models(folder)
    config = load_config(
        CONFIG,
        (
            f"prompts.held_out={prompts}",
            f"evaluation.num_prompts={NUM_PROMPTS}",
            "evaluation.seeds_per_prompt=1",
        ),
    )
    started = time.perf_counter()
    report = evaluate_models(
        models, config, folder / "report", folder / "embeddings", folder / "scores", base="builtin:shapes"
    )
    seconds = time.perf_counter() - started
    drawn = len(report.models) * len(report.images)
    Console().print(f"{len(report.models)} models, {NUM_PROMPTS} prompts, {drawn} pictures: {seconds:.0f} s")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch))
