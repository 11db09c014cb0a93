"""The pipeline with a durable copy: what the steps made is whole in S3, where their manifests say."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from srpo.durable import Mirror
from tests.conftest import CONFIG, SHORT
from tests.durable.conftest import REMOTE

COMMAND = [sys.executable, str(CONFIG.parent.parent / "run_pipeline.py"), "run", "--config", str(CONFIG)]


def run(folder: Path, *options: str) -> None:
    settings = [part for setting in (*SHORT, f"storage.remote={REMOTE}") for part in ("--set", setting)]
    done = subprocess.run([*COMMAND, *settings, *options], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def files(root: Path, *folders: Path) -> dict[str, bytes]:
    """Content of what steps hand on; checkpoints, hidden files and locks are none of it."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.name != "lock" and "checkpoints" not in path.parts
    }


@pytest.mark.slow
def test_the_last_steps_run_on_an_emptied_disk(bucket: Any, tmp_path: Path) -> None:
    """Embeddings and training are removed; evaluation and registration find them in the copy."""
    run(tmp_path, "--until", "train")
    root = tmp_path / ".srpo"
    (record,) = (root / "runs").iterdir()
    made = (root / "embeddings", record / "train")
    before = files(root, *made)
    assert any("transformer" in name for name in before)
    for folder in made:
        shutil.rmtree(folder)
    run(tmp_path, "--from", "evaluate")
    after = files(root, *made)
    assert after == {name: content for name, content in before.items() if name in after}
    assert {name for name in before if "/train/" in name} <= set(after)
    (second,) = {path for path in (root / "runs").iterdir() if path != record}
    report = Mirror(REMOTE, root).manifest(second / "evaluation")
    assert report and {"report.json", "report.html"} <= {entry.path for entry in report.files}
