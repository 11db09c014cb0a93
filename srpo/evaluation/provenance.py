"""What an evaluation's numbers were made from, and with: enough to make them again."""

import hashlib
import platform
from importlib.metadata import version

import torch

from srpo.artifacts import PromptSets, Trained, Weights
from srpo.config import RunConfig
from srpo.evaluation.schema import Provenance
from srpo.tracking import code_version, data_version

PACKAGES = ("torch", "diffusers", "transformers", "open_clip_torch", "numpy", "scipy")


def trace(
    config: RunConfig, weights: Weights, prompts: PromptSets, trained: Trained, device: torch.device
) -> Provenance:
    """Versions, hashes and sources."""
    hashes = {name[len("data.") : -len("_sha256")]: value for name, value in data_version(weights, prompts).items()}
    hashes |= {
        "transformer": trained.transformer.sha256,
        "config": hashlib.sha256(config.model_dump_json().encode()).hexdigest(),
    }
    return Provenance(
        code={name.removeprefix("code."): value for name, value in code_version().items()},
        packages={"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({platform.machine()})",
        hashes=hashes,
        sources={
            **{name: files.source for name, files in weights.snapshots.items()},
            "train_prompts": prompts.train.snapshot.source,
            "held_out_prompts": prompts.held_out.snapshot.source,
            **({"images": prompts.images.snapshot.source} if prompts.images else {}),
        },
        licences={name: files.licence for name, files in weights.snapshots.items()},
        config=config.model_dump(mode="json"),
    )
