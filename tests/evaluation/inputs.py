"""What an evaluation takes, on small untrained models of the real classes, and what it gives."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxTransformer2DModel

from srpo.artifacts import Evaluated, PromptSets, Snapshot, Trained, Weights
from srpo.config import RunConfig, parse_config
from srpo.evaluation.run import evaluate
from srpo.hub import snapshot
from srpo.prompts import embed_prompts
from srpo.report.schema import Report

HOSTILE = "a <script>alert('red')</script> & \"circle\""
JUDGED = ["a red circle", "a blue ring on a red background", HOSTILE, "a green cross", "a red square", "a cyan ring"]
HELD_OUT = [*JUDGED[:2], "a cyan square", *JUDGED[2:5], "a blue cross", JUDGED[5]]
"""The monitor has the third and the seventh of them."""
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


def make_other(folder: Path, transformer: Path) -> Snapshot:
    """A third model."""
    model = FluxTransformer2DModel.from_pretrained(transformer)
    with torch.no_grad():
        model.proj_out.bias += 0.1
    model.save_pretrained(folder)
    return snapshot(folder, "other")


def load(evaluated: Evaluated) -> Report:
    return Report.model_validate_json(Path(evaluated.report_json).read_text(encoding="utf-8"))


def count_images(inputs: Inputs, folder: Path, **places: Any) -> dict[str, int]:
    """Label -> how many images an evaluation had to draw."""
    drawn: dict[str, int] = {}
    before: dict[str, int] = {}

    def progress(activity: str, done: int, total: int) -> None:
        label = activity.removesuffix(" images")
        drawn[label] = drawn.get(label, 0) + done - before.get(label, 0)
        before[label] = done

    evaluate(*inputs, folder, progress, **places)
    return drawn
