"""What an evaluation's numbers were made from, and with: enough to make them again."""

import hashlib
import platform
from collections.abc import Mapping

import torch

from srpo.config import RunConfig
from srpo.devices import count_processes
from srpo.evaluation.contender import package_versions
from srpo.provenance import code_version
from srpo.report.schema import Provenance


def trace(
    config: RunConfig, hashes: Mapping[str, str], sources: Mapping[str, str], licences: Mapping[str, str]
) -> Provenance:
    """Versions and the config, beside the hashes and sources of what was used."""
    return Provenance(
        code={name.removeprefix("code."): value for name, value in code_version().items()},
        packages={"python": platform.python_version()} | package_versions(),
        device=device_name(),
        num_processes=count_processes(config.evaluation.num_processes),
        hashes={**hashes, "config": hashlib.sha256(config.model_dump_json().encode()).hexdigest()},
        sources=dict(sources),
        licences=dict(licences),
        config=config.model_dump(mode="json"),
    )


def device_name() -> str:
    """What draws and scores here."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
