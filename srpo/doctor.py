"""Facts about this machine and installation, for a bug report: no secrets, no names of people."""

import platform
import shutil
import socket
import sqlite3
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from srpo.devices import driver_version, find_compiler, num_cores

Fact = tuple[str, str]
PACKAGES = (
    "srpo", "torch", "torchvision", "diffusers", "transformers", "accelerate", "open_clip_torch", "safetensors",
    "peft", "bitsandbytes", "torchao", "triton", "zenml", "mlflow", "pydantic", "numpy", "huggingface_hub", "boto3",
)  # fmt: skip
MLFLOW_PORT = 5000


def examine(work_dir: Path, constraints: Path) -> list[Fact]:
    """All facts, as (subject, finding). `work_dir`: where runs are kept; `constraints`: the pinned versions."""
    return [*_machine(work_dir), *_torch(), *_store(work_dir), *_packages(constraints)]


def _machine(work_dir: Path) -> Iterator[Fact]:
    yield "system", f"{platform.system()} {platform.release()} {platform.machine()}"
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "cores", str(num_cores())
    yield "memory", _memory()
    existing = next(folder for folder in (work_dir, *work_dir.parents) if folder.exists())
    yield "disk", f"{shutil.disk_usage(existing).free / 2**30:.1f} GiB free at {existing}"
    yield "port", f"{MLFLOW_PORT} {'free' if port_is_free(MLFLOW_PORT) else 'in use: ui needs --port'}"


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    return f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB available"


def _torch() -> Iterator[Fact]:
    import torch

    yield "torch", f"{torch.__version__}, {torch.get_num_threads()} threads"
    yield "C compiler", find_compiler() or "none: a GPU cannot run what it has to compile"
    yield "driver", driver_version()
    if not torch.cuda.is_available():
        yield "cuda", f"not available (torch built for CUDA {torch.version.cuda})"
        return
    yield "cuda", str(torch.version.cuda)
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield f"gpu {index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"


def _store(work_dir: Path) -> Iterator[Fact]:
    if not work_dir.exists():
        yield "store", f"none at {work_dir} yet; the first run makes it"
        return
    yield "store", str(work_dir)
    yield "runs", str(len(list(work_dir.glob("runs/*/run.json"))))
    for name, path in (("MLflow store", work_dir / "mlflow.db"), ("ZenML store", _zenml_database(work_dir))):
        yield name, _database(path)


def _zenml_database(work_dir: Path) -> Path:
    return next(work_dir.glob("zenml/**/zenml.db"), work_dir / "zenml.db")


def _database(path: Path) -> str:
    """Is an SQLite file sound?"""
    if not path.exists():
        return "none yet"
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
            (answer,) = connection.execute("PRAGMA quick_check").fetchone()
    except sqlite3.Error as error:
        return f"{path}: {error}"
    return f"{answer}, {path.stat().st_size / 2**20:.1f} MiB"


def _packages(constraints: Path) -> Iterator[Fact]:
    pinned = _pins(constraints)
    for name in PACKAGES:
        try:
            installed = version(name)
        except PackageNotFoundError:
            yield name, "not installed"
            continue
        wanted = pinned.get(name.lower())
        differs = wanted and wanted != installed.partition("+")[0]
        yield name, f"{installed}, but constraints.txt says {wanted}" if differs else installed


def _pins(constraints: Path) -> dict[str, str]:
    if not constraints.exists():
        return {}
    lines = constraints.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("#")[0].strip().partition("==") for line in lines)
    return {name.lower(): pin for name, _, pin in pairs if pin}


def port_is_free(port: int) -> bool:
    """Can a server listen here?"""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
