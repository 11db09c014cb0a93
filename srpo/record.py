"""The written record of a training run: JSON lines, cut back to the checkpoint on resume, and MLflow beside them."""

import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from srpo.config import RunConfig
from srpo.errors import ConfigError
from srpo.files import write_atomic
from srpo.monitor import NO_METRICS, chosen_update, stop_reason, violations
from srpo.objective import StepScores
from srpo.progress import TrainingProgress
from srpo.tracking import Tracker

log = logging.getLogger(__name__)

METRICS, HELD_OUT = "metrics.jsonl", "heldout.jsonl"
BASE = "base"
"""What the first measurement is `of`, where training starts from another model."""


class Journal:
    """A .jsonl file whose entries carry their `update`."""

    def __init__(self, path: Path, resume_at: int) -> None:
        self.path = path
        kept = read_journal(path) if resume_at else []  # a run that starts anew has measured nothing yet
        self.entries = [entry for entry in kept if entry["update"] <= resume_at]
        write_atomic(path, "".join(f"{json.dumps(entry)}\n" for entry in self.entries))

    def append(self, entry: dict[str, Any]) -> None:
        """Write one entry through to the disk (fsync), where it has to be before the checkpoint that it belongs to."""
        self.entries.append(entry)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(entry)}\n")
            file.flush()
            os.fsync(file.fileno())


def read_journal(path: Path) -> list[dict[str, Any]]:
    """All whole entries; a last line that a kill cut short is dropped."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def tracked(entry: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """What MLflow is told of a journal's entry; the base's own, where training starts from another, stands apart."""
    prefix = f"{prefix}_{entry['of']}" if "of" in entry else prefix
    return {f"{prefix}/{name}": value for name, value in entry.items() if name not in NO_METRICS}


class Clock:
    """Seconds of the named parts of an update; waits for the GPU, so that each part is charged its own work."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.parts: dict[str, float] = defaultdict(float)
        self.start = self._now()

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Charge the time spent inside to `part`."""
        start = self._now()
        yield
        self.parts[part] += self._now() - start

    def stop(self) -> dict[str, float]:
        """All parts, and `rest` for what none of them covers."""
        total = self._now() - self.start
        return {**self.parts, "rest": total - sum(self.parts.values())}

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class UpdateRecord:
    """Collects what the branches of an update measured."""

    def __init__(self) -> None:
        self.values: dict[str, list[torch.Tensor]] = defaultdict(list)

    def add(self, scores: Sequence[StepScores]) -> None:
        """Note the branches of one forward pass."""
        for measured in scores:
            name = measured.step.name
            found = {"loss": measured.loss, "relative": measured.relative, "reward": measured.reward, **measured.added}
            for key, values in found.items():
                if values is not None:
                    self.values[f"{name}/{key}"].append(values)
            for key in ("sigma_from", "sigma_to"):
                self.values[f"{name}/{key}"].append(getattr(measured.step, key))

    def metrics(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over all images of the update, over all processes; `loss` and `reward` are means over the branches."""
        means = torch.stack(
            [torch.cat(tensors).float().mean().to(accelerator.device) for tensors in self.values.values()]
        )
        reduced = accelerator.reduce(means, "mean").tolist()
        metrics = dict(zip(self.values, reduced, strict=True))
        for key in ("loss", "reward"):
            branches = [value for name, value in metrics.items() if name.partition("/")[2] == key]
            metrics[key] = sum(branches) / len(branches)
        return metrics


class Record:
    """Journals, MLflow and the terminal; only the main process writes.

    ConfigError for a run that goes on without the base's measurement.
    """

    def __init__(self, output_dir: Path, resume_at: int, config: RunConfig, writes: bool) -> None:
        self.config = config
        self.writes = writes
        if writes:
            output_dir.mkdir(parents=True, exist_ok=True)
            self.metrics = Journal(output_dir / METRICS, resume_at)
            self.measurements = Journal(output_dir / HELD_OUT, resume_at)
            if resume_at and not self.measured(0):
                raise ConfigError(
                    f"{self.measurements.path} has not, or no longer, what was measured of the base, by which all is "
                    "judged; bring it back, or start a new run"
                )
            self.tracker = Tracker.from_environment(output_dir)
            self.progress = TrainingProgress(config, resume_at)

    def update(self, update: int, metrics: Mapping[str, float]) -> None:
        """The numbers of one update."""
        if self.writes:
            self.metrics.append({"update": update, **metrics})
            self.tracker.log_metrics(tracked(metrics, "train"), update)
            self.progress.update(update, metrics)

    def measurement(self, update: int, metrics: Mapping[str, float], strip: Path | None) -> None:
        """The held-out numbers after an update, and what they violate.

        Of update 0 are the base's, the first of all, and then those of what training starts from, if that is another:
        the base's are marked then, and have no `strip`, as the other's shows its pictures too.
        """
        if self.writes:
            base = self.measurements.entries[0] if self.measurements.entries else metrics
            broken = violations(metrics, base, self.config.monitor.bounds)
            entry = {"update": update, **metrics, "violations": broken} | ({} if strip else {"of": BASE})
            self.measurements.append(entry)
            self.tracker.log_metrics(tracked(entry, "held_out"), update)
            if strip:
                self.tracker.log_image(strip, "samples", update)
            self.progress.measurement(entry)

    def measured(self, update: int) -> bool:
        """Whether there are held-out numbers of an update (main process only)."""
        return any(entry["update"] == update for entry in self.measurements.entries)

    def best(self) -> int | None:
        """The best measured update so far; where all are damaged, the least damaged (main process only)."""
        return chosen_update(self.measurements.entries, self.config.monitor.watch)

    def stop_reason(self) -> str | None:
        """Why the measurements say that training should stop (main process only)."""
        return stop_reason(self.measurements.entries, self.config.monitor)

    def stopped(self, reason: str) -> None:
        """Say that training has stopped early."""
        if self.writes:
            self.tracker.set_tags({"stopped": reason})
            self.progress.stopped(reason)

    def close(self, seconds: float) -> None:
        """Leave the terminal as it was; wait so long for MLflow, at most."""
        if self.writes:
            self.progress.close()
            if left := self.tracker.close(seconds):
                log.warning("MLflow has not taken the last %d entries; `run_pipeline.py sync` sends them later", left)
