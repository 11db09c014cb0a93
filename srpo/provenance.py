"""What a run was made from: the code's version, and the hashes of its weights and prompts."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from srpo.artifacts import PromptSets, Weights


def code_version() -> dict[str, str]:
    """The installed version, and the commit where the code lies in a git checkout."""
    tags = {"code.version": _installed_version()}
    here = Path(__file__).parent
    commit = _git("rev-parse", "HEAD", folder=here)
    if commit:
        tags["code.commit"] = commit
        tags["code.changed"] = str(bool(_git("status", "--porcelain", "--untracked-files=no", folder=here))).lower()
    return tags


def data_hashes(weights: Weights, prompts: PromptSets) -> dict[str, str]:
    """sha256 of everything that a run was made from, by its name."""
    hashes = {name: files.sha256 for name, files in weights.snapshots.items()}
    hashes |= {"train_prompts": prompts.train.snapshot.sha256, "held_out_prompts": prompts.held_out.snapshot.sha256}
    return hashes | ({"images": prompts.images.sha256} if prompts.images else {})


def data_version(weights: Weights, prompts: PromptSets) -> dict[str, str]:
    """`data_hashes` as the tags of a run."""
    return {f"data.{name}_sha256": sha256 for name, sha256 in data_hashes(weights, prompts).items()}


def _installed_version() -> str:
    try:
        return version("srpo")
    except PackageNotFoundError:
        return "not installed"


def _git(*arguments: str, folder: Path) -> str:
    """Output of a git command; empty where git or a repository is missing."""
    try:
        result = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
