"""GPU-hours: what training has taken, and whether that is all it may take."""

import json
import time
from pathlib import Path

from srpo.config import RunConfig
from srpo.files import write_atomic

SPENT = "gpu-hours.json"
"""What all attempts had taken at the last checkpoint, or when one was told to stop, which may be before the first."""


class Budget:
    """Hours of all processes, from before the model is loaded on; each is taken to hold one GPU, on a CPU too.

    Time after the last checkpoint of an attempt that was killed is lost from the count.
    """

    def __init__(self, config: RunConfig, num_processes: int) -> None:
        self.most = config.resources.max_gpu_hours
        self.num_processes = num_processes
        self.before = 0.0
        """GPU-hours of earlier attempts."""
        self.start = time.monotonic()

    @property
    def spent(self) -> float:
        """GPU-hours until now."""
        return self.before + self.num_processes * (time.monotonic() - self.start) / 3600

    def note(self, folder: Path) -> None:
        """Leave in a training's folder what was spent until now."""
        write_atomic(folder / SPENT, json.dumps(self.spent))

    def go_on(self, folder: Path) -> None:
        """Count earlier attempts, by what they have noted."""
        path = folder / SPENT
        self.before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else 0.0

    def stop_reason(self) -> str | None:
        """Why training should stop now, in words; None to go on."""
        if self.most is None or self.spent < self.most:
            return None
        return f"the run has taken {self.spent:.3g} GPU-hours, and resources.max_gpu_hours is {self.most:g}"
