"""What the steps hand to each other: small manifests that name files by place and content, never tensors."""

import hashlib
import json
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from srpo.config import RunConfig
from srpo.errors import ConfigError, first_problem
from srpo.strict import Strict


class FileEntry(Strict):
    """One file of a snapshot."""

    path: str
    """Relative to the snapshot."""
    size: int
    """Bytes."""
    sha256: str
    """Of the content."""


class Snapshot(Strict):
    """Files at one place, known by their content."""

    source: str
    """What was asked for: a path, `hf://...`, `s3://...`, or `builtin:shapes`."""
    uri: str
    """Where the files lie: a folder, or one file."""
    files: tuple[FileEntry, ...]
    revision: str = ""
    """The commit that the files are of, where the source has commits."""
    licence: str = ""
    """Its name, or its first line, where the source says it."""

    @property
    def path(self) -> Path:
        """The place as a local path."""
        return Path(self.uri)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def sha256(self) -> str:
        """One hash over names and contents."""
        listing = json.dumps([[file.path, file.sha256] for file in self.files])
        return hashlib.sha256(listing.encode()).hexdigest()

    def part(self, folder: str) -> Self:
        """What lies in one of its folders."""
        inside = [file for file in self.files if file.path.startswith(f"{folder}/")]
        files = tuple(file.model_copy(update={"path": file.path[len(folder) + 1 :]}) for file in inside)
        return self.model_copy(update={"uri": f"{self.uri}/{folder}", "files": files})


class ScoreWeights(Strict):
    """A published score: its checkpoint, and what that needs beside it."""

    checkpoint: Snapshot
    companion: Snapshot | None = None


class Weights(Strict):
    """Result of `download`."""

    model: Snapshot
    reward: Snapshot
    rewards: dict[str, Snapshot] = Field(default_factory=dict)
    """Added rewards by name."""
    scores: dict[str, ScoreWeights] = Field(default_factory=dict)
    """The held-out scores of the evaluation by name."""

    @property
    def snapshots(self) -> dict[str, Snapshot]:
        """Everything by what it is: `model`, `reward`, `reward_<name>`, `score_<name>`, `score_<name>_companion`."""
        found = {"model": self.model, "reward": self.reward}
        found |= {f"reward_{name}": added for name, added in self.rewards.items()}
        for name, score in self.scores.items():
            found[f"score_{name}"] = score.checkpoint
            if score.companion:
                found[f"score_{name}_companion"] = score.companion
        return found


class PromptSet(Strict):
    """Prompts with their embeddings, in the store of an encoder that other sets share."""

    snapshot: Snapshot
    """The store, with those of its files that this set needs."""
    index: str
    """The file among them that lists the prompts, their categories and the places of their embeddings."""
    num_prompts: int
    bytes_per_prompt: int
    """On disk, averaged over the shards that hold the set."""


class LatentSet(Strict):
    """Real images as latents, in the store of a VAE that other sets share, with their captions."""

    snapshot: Snapshot
    """The store, with those of its files that this set needs."""
    index: str
    """The file among them that lists the images, their buckets and the places of their latents."""
    sha256: str
    """Of the image files' contents and captions, in order."""
    captions: PromptSet
    """One for each image, in the same order."""
    num_images: int


class PromptSets(Strict):
    """Result of `embed`."""

    train: PromptSet
    """What is trained on: prompts that are rolled out, or where nothing is, the captions of the images."""
    held_out: PromptSet
    images: LatentSet | None = None
    """Real images that are trained on."""
    data_hash: str = ""
    """State of the prompt files and images that they were made from; empty where nobody looked."""


class TrainJob(Strict):
    """Everything `python -m srpo.train job.json` needs."""

    config: RunConfig
    weights: Weights
    prompts: PromptSets
    start: Snapshot | None = None
    """The transformer or adapter that training starts from; None: the base's own."""
    output_dir: str
    """Metrics, sample strips, checkpoints and the aligned transformer are written here; resumes from what it finds."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a job file; ConfigError for one of another srpo."""
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise ConfigError(
                f"{path} was not written by this version of srpo ({first_problem(error)}); write it anew"
            ) from None


class Trained(Strict):
    """Result of `train`."""

    output_dir: str
    transformer: Snapshot
    """What the best checkpoint was written as: a folder of its transformer, or of its adapter."""
    best_update: int
    num_updates: int
    seconds: float
    """Wall time inside the training loop, over all resumptions."""
    gpu_hours: float = 0.0
    """Hours of all processes, with loading and measurements, over all resumptions."""
    stopped: str | None = None
    """Why the monitor or the budget ended training before its last update, if it did."""
    out_of_budget: bool = False
    """Whether it was the budget (`resources.max_gpu_hours`): with a larger one it can go on."""
    copied: str = ""
    """What became of the checkpoints' durable copy, where there is to be one."""


class Evaluated(Strict):
    """Result of `evaluate`."""

    report_json: str
    report_html: str
    passed: bool
    verdict: str
    """promote, keep or collapsed."""
    reason: str
    """The verdict in one sentence."""


class Registered(Strict):
    """Result of `register`."""

    name: str
    version: str
    alias: str
    """champion or challenger; empty where a newer version is the challenger."""
    uri: str
    """`models:/name/version`: aliases move on."""
    outcome: str = ""
    """What became of the champion, in one sentence."""
    licences: dict[str, str] = Field(default_factory=dict)
    """What is licensed (model, reward) -> terms, as far as its source states them."""
