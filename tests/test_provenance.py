"""The code's version, from the checkout that the code lies in."""

import subprocess
from pathlib import Path

import pytest

from srpo import provenance


def git(folder: Path, *arguments: str) -> str:
    own = ["-c", "user.name=somebody", "-c", "user.email=somebody@example.org"]
    return subprocess.run(["git", *own, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_the_code_is_named_by_its_commit_and_whether_it_was_changed_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "code.py"
    monkeypatch.setattr(provenance, "__file__", str(code))
    assert set(provenance.code_version()) == {"code.version"}
    code.write_text("1")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    (tmp_path / "beside.txt").write_text("not the code's")
    version = provenance.code_version()
    assert version["code.commit"] == git(tmp_path, "rev-parse", "HEAD").strip()
    assert version["code.changed"] == "false"
    code.write_text("2")
    assert provenance.code_version() == version | {"code.changed": "true"}
