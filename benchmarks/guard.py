"""Does the collapse guard matter? `python benchmarks/guard.py train OUT`, then `... journals OUT`, `... choose OUT` and
`... judge OUT`.

On the embedded world, where the truth can be measured: runs as configured, too long, and with learning rates three and
ten times too high (the last measured twice as often), some seeds each. Every run trains to its end with the guard off
and keeps all measured checkpoints; what the guard would have done is replayed from the journal of measurements, which
is all that it reads. Then the gate judges the last checkpoint (no guard) and the guard's. A rule is chosen on some
seeds and judged on others.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from srpo.artifacts import Trained, TrainJob
from srpo.checkpoint import CheckpointStore, read_weights
from srpo.config import Bound, MonitorConfig, RunConfig, load_config
from srpo.evaluation.run import evaluate
from srpo.hub import snapshot
from srpo.launch import launch_training, prepare_job
from srpo.models import load_model
from srpo.monitor import chosen_update, stop_reason, violations
from srpo.record import HELD_OUT, read_journal
from srpo.report.schema import Report

CONFIG = Path(__file__).parent.parent / "configs" / "shapes.yaml"
UPDATES = 60  # of the recipe
HEALTHY, TOO_LONG = "as configured", "three times too long"
CONDITIONS: dict[str, tuple[str, ...]] = {
    HEALTHY: (),
    TOO_LONG: (f"train.num_updates={3 * UPDATES}",),
    "learning rate x3": ("train.learning_rate=3.0e-5",),
    "learning rate x10": ("train.learning_rate=1.0e-4", "train.save_every=5", "monitor.every=5"),
}
SeedsOption = Annotated[str, typer.Option(help="First and last seed.")]
SPREADS, TIMES = (0.7, 0.8, 0.85, 0.9), (1, 2)


def rule_of(spread: float, times: int) -> MonitorConfig:
    """A rule that needs no truth, as a real model has none: ratio of the spread, measurements outside in a row."""
    bounds = (
        Bound(metric="spread", min_ratio=spread),
        Bound(metric="clipped", max_change=0.1),
        Bound(metric="grid/8", max_change=0.2),
    )
    return MonitorConfig(bounds=bounds, stop_after_damaged=times)


app = typer.Typer(add_completion=False)


@app.callback()
def _() -> None:
    """Does the collapse guard matter?"""


@dataclass(frozen=True)
class Run:
    """One training: its journal up to the last update that counts, and where it lies."""

    condition: str
    seed: int
    folder: Path
    entries: list[dict[str, Any]]

    def judged(self, bounds: Sequence[Bound]) -> list[dict[str, Any]]:
        """The journal as a monitor with these bounds would have written it."""
        return [entry | {"violations": violations(entry, self.entries[0], bounds)} for entry in self.entries]

    def replay(self, rule: MonitorConfig) -> tuple[int, int]:
        """The update at which a rule stops the run, and the one whose checkpoint it hands on."""
        entries = self.judged(rule.bounds)
        prefixes = (entries[: end + 1] for end in range(1, len(entries)))
        seen = next((prefix for prefix in prefixes if stop_reason(prefix, rule)), entries)
        handed_on = chosen_update(seen, rule.watch)
        assert handed_on is not None, "a run has measurements"
        return seen[-1]["update"], handed_on


@app.command()
def train(out: Path, seeds: SeedsOption) -> None:
    """Train every run with the guard off; what is done already is kept."""
    for seed, (name, settings) in itertools.product(_range(seeds), CONDITIONS.items()):
        if name != HEALTHY:  # the first updates of the run that is too long
            launch_training(TrainJob.load(prepare_job(_config(seed, settings), _folder(out, name, seed))))


@app.command()
def journals(out: Path, seeds: SeedsOption) -> None:
    """What the recipe's own rule would have done, by the monitor's measurements alone: seconds, nothing is drawn."""
    rule, console = load_config(CONFIG).monitor, Console()
    table = Table("condition", "stopped, at", "spread, ratio", "content", "luminance, change")
    for name in CONDITIONS:
        runs = [_read(out, name, seed) for seed in _range(seeds)]
        ends = [run.replay(rule) for run in runs]
        last = _means(runs, [run.entries[-1]["update"] for run in runs])
        kept = _means(runs, [best for _, best in ends])
        values = [f"{without:.3f} / {guarded:.3f}" for without, guarded in zip(last, kept, strict=True)]
        table.add_row(name, _stops(runs, ends), *values)
    console.print(f"rule: {rule.model_dump_json(include={'bounds', 'stop_after_damaged'})}")
    console.print(table)
    console.print("means over seeds, at the last checkpoint / at the one that the guard keeps")


@app.command()
def choose(out: Path, seeds: SeedsOption) -> None:
    """How each rule does on these seeds: most passes, then most healthy runs left alone, then soonest, comes first."""
    runs = [_read(out, name, seed) for name in CONDITIONS for seed in _range(seeds)]
    table = Table("spread at least", "measurements outside", f"of {len(runs)} pass", "stopped in vain", "updates")
    worth = {(spread, times): _worth(rule_of(spread, times), runs) for spread in SPREADS for times in TIMES}
    for rule, (passes, in_vain, updates) in sorted(worth.items(), key=lambda found: found[1], reverse=True):
        table.add_row(*map(str, (*rule, passes, -in_vain, -updates)))
    Console().print(table)


@app.command()
def judge(
    out: Path,
    seeds: SeedsOption,
    spread: Annotated[float | None, typer.Option(help="A rule that needs no truth: least ratio to the base's.")] = None,
    times: Annotated[int, typer.Option(help="Its measurements outside in a row that end a run.")] = 1,
) -> None:
    """How runs end without the guard, and with the recipe's own rule or, given a spread, one that needs no truth."""
    rule = load_config(CONFIG).monitor if spread is None else rule_of(spread, times)
    table = Table("condition", "passes at the end", "stopped, at", "passes with the guard")
    for name in CONDITIONS:
        runs = [_read(out, name, seed) for seed in _range(seeds)]
        ends = [run.replay(rule) for run in runs]
        last = [run.entries[-1]["update"] for run in runs]
        table.add_row(name, _passing(runs, last), _stops(runs, ends), _passing(runs, [best for _, best in ends]))
    Console().print(table)


def _range(seeds: str) -> range:
    first, last = map(int, seeds.split("-"))
    return range(first, last + 1)


def _means(runs: Sequence[Run], updates: Sequence[int]) -> tuple[float, float, float]:
    """Ratio of spread to the base's, content, and change of luminance, over runs at an update each."""
    pairs = [
        (run.entries[0], next(entry for entry in run.entries if entry["update"] == update))
        for run, update in zip(runs, updates, strict=True)
    ]
    return (
        mean(entry["spread"] / base["spread"] for base, entry in pairs),
        mean(entry["content"] for _, entry in pairs),
        mean(entry["luminance"] - base["luminance"] for base, entry in pairs),
    )


def _stops(runs: Sequence[Run], ends: Sequence[tuple[int, int]]) -> str:
    stops = [stop for run, (stop, _) in zip(runs, ends, strict=True) if stop < run.entries[-1]["update"]]
    return f"{len(stops)} of {len(runs)}" + (f", at {min(stops)} to {max(stops)}" if stops else "")


def _worth(rule: MonitorConfig, runs: Sequence[Run]) -> tuple[int, int, int]:
    """More passes of the gate, then fewer false stops, then fewer updates in vain."""
    ends = [run.replay(rule) for run in runs]
    passes = sum(_passes(run, best) for run, (_, best) in zip(runs, ends, strict=True))
    false_stops = sum(stop < UPDATES for run, (stop, _) in zip(runs, ends, strict=True) if run.condition == HEALTHY)
    return passes, -false_stops, -sum(stop for stop, _ in ends)


def _passing(runs: Sequence[Run], updates: Sequence[int]) -> str:
    passes = sum(_passes(run, update) for run, update in zip(runs, updates, strict=True))
    return f"{passes} of {len(runs)}"


def _passes(run: Run, update: int) -> bool:
    """Whether the gate lets an update's checkpoint pass; judged once."""
    place = run.folder / "judged" / f"update-{update:06d}"
    if not (place / "report.json").exists():
        job = TrainJob.load(run.folder / "job.json")
        transformer = load_model(job.config.model, job.weights.model.path).transformer
        transformer.load_state_dict(read_weights(CheckpointStore(run.folder / "checkpoints", 1).path(update)))
        transformer.save_pretrained(place / "transformer")
        trained = Trained(
            output_dir=str(run.folder),
            transformer=snapshot(place / "transformer", f"update {update} of {run.folder.name}"),
            best_update=update,
            num_updates=update,
            seconds=0,
        )
        evaluate(job.config, job.weights, job.prompts, trained, place)
    return Report.model_validate_json((place / "report.json").read_text(encoding="utf-8")).passed


def _read(out: Path, condition: str, seed: int) -> Run:
    folder = _folder(out, TOO_LONG if condition == HEALTHY else condition, seed)
    entries = read_journal(folder / HELD_OUT)
    return Run(condition, seed, folder, [e for e in entries if condition != HEALTHY or e["update"] <= UPDATES])


def _folder(out: Path, condition: str, seed: int) -> Path:
    return out / f"{condition.replace(' ', '-')}-{seed}"


def _config(seed: int, settings: Sequence[str]) -> RunConfig:
    """The recipe with the guard off and every measured checkpoint kept."""
    off = ("monitor.stop_after_damaged=null", "train.keep_last=100", "train.num_processes=1")
    return load_config(CONFIG, (f"seed={seed}", *off, *settings))


if __name__ == "__main__":
    app()
