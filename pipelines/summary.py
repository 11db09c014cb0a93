"""What the command line shows: a plan before a run, its outcome after it; `status` has the state of all runs."""

import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table

from pipelines.notify import page_of
from pipelines.outcome import Outcome
from pipelines.place import CODE
from srpo.gpus import find_gpu
from srpo.report.schema import Report
from srpo.report.tables import leading
from srpo.steps import STEPS
from srpo.wording import level, nothing_seen, number, signed, span

if TYPE_CHECKING:
    from srpo.evaluation.words import WordReport
    from srpo.forecast.price import Prediction
    from srpo.plan import Plan

WORD_COLOURS = {"known": "green", "weak": "yellow", "unknown": "red"}
VERDICT_COLOURS = {"promote": "green", "keep": "yellow", "collapsed": "red"}


def show_plan(console: Console, plan: "Plan") -> None:
    """The resolved config, the steps and what was checked."""
    text = yaml.safe_dump(plan.config.model_dump(mode="json"), sort_keys=False)
    console.print(Syntax(text, "yaml", background_color="default"))
    console.print(facts_of("steps", ((name, STEPS[name].does) for name in plan.steps)))
    console.print(facts_of("checked", ((check.subject, escape(check.finding)) for check in plan.checks)))


def show_prediction(
    console: Console, prediction: "Prediction", smaller: "tuple[Path, Prediction] | None" = None
) -> None:
    """What a run asks of one GPU, and with which preset it would fit."""
    room = find_gpu(prediction.gpu).memory
    verdict = "[green]fits[/]" if prediction.fits else "[red]does not fit[/]"
    work = f"{prediction.forward_equivalents:.1f} forwards of the transformer per image"
    seconds = f"{prediction.seconds_per_update:.3g} s expected, {prediction.floor_per_update:.3g} s at the least"
    facts = {
        "memory": f"{prediction.memory:.1f} GiB at the peak, in {prediction.phase}; {room:.1f} there: {verdict}",
        "work": work,
        "update": seconds,
        "training": f"{prediction.hours:.2g} hours for all updates, {prediction.measuring_hours:.2g} for measurements",
        "evaluation": f"{prediction.evaluation_hours:.2g} hours for pictures of two models",
    }
    if not prediction.fits:
        facts["instead"] = "no preset of configs/hardware/ makes it fit"
    if smaller:
        preset, needs = smaller
        facts["instead"] = f"--config {escape(from_here(preset))} takes {needs.memory:.1f} GiB"
    console.print(facts_of(f"on one {prediction.gpu} (predicted, not measured)", facts.items()))


def show_outcome(console: Console, outcome: Outcome) -> None:
    """Verdict, figures, where to look next, and where the time went."""
    record, prompt = outcome.record, "a lighthouse at dawn"
    console.print()
    if outcome.evaluated:
        report = Report.model_validate_json(Path(outcome.evaluated.report_json).read_text(encoding="utf-8"))
        prompt = min((images.prompt for images in report.images), key=len, default=prompt)
        console.print(_figures(report))
        colour = VERDICT_COLOURS.get(outcome.evaluated.verdict, "white")
        verdict = f"[bold {colour}]{outcome.evaluated.verdict}[/]: {escape(outcome.evaluated.reason)}"
        console.print(Panel(verdict, title="verdict", expand=False))
    facts = {"run": f"{record.name}, {_best(outcome)}" if outcome.trained else record.name}
    if outcome.trained and outcome.trained.copied:
        facts["copy"] = outcome.trained.copied
    if outcome.registered:
        registered = outcome.registered
        facts["registered"] = f"{registered.name} version {registered.version}, {registered.outcome}"
        facts["licences"] = "; ".join(f"{name}: {terms}" for name, terms in registered.licences.items())
    if outcome.evaluated:
        facts["report"] = outcome.evaluated.report_html
    facts["all numbers"] = page_of(record.tracked) or command("ui")
    if outcome.registered:
        where = f" --stack {record.stack}" if record.stack else ""
        made = f"--prompts {shlex.quote(prompt)} --out pictures/{record.name}"
        facts["pictures"] = command(f"generate --model {outcome.registered.uri}{where} {made}")
    if outcome.trained and outcome.trained.out_of_budget:
        more = 2 * (record.config.resources.max_gpu_hours or 0.0)
        facts["train on"] = command(f"run --resume {record.name} --set resources.max_gpu_hours={more:g}")
    facts["files"] = record.folder
    for name, value in facts.items():
        console.print(f"[bold]{name:>12}[/]  {escape(value)}", soft_wrap=True, highlight=False)
    console.print(_times(outcome), soft_wrap=True, highlight=False)


def show_words(console: Console, reports: "Sequence[WordReport]", num_wanted: int) -> None:
    """What the reward makes of each control word; the first `num_wanted` are the wanted ones."""
    table = table_of("word", "shift", "AUC", "interval", "distance", "verdict")
    table.caption = (
        "+ wanted, - unwanted; shift: of scores by the word, whatever the picture shows, which decides nothing; AUC: "
        "pairs told apart; distance: of the text features; *: told on pictures that the model drew"
    )
    for index, report in enumerate(reports):
        colour = WORD_COLOURS[report.verdict]
        table.add_row(
            f"{'+' if index < num_wanted else '-'} {escape(report.word)}",
            signed(report.shift),
            f"{report.separation:.2f}" + ("*" if report.images == "drawn" else ""),
            f"{report.lower:.2f}-{report.upper:.2f}",
            "-" if report.distance is None else number(report.distance),
            f"[bold {colour}]{report.verdict}[/]",
        )
    console.print(table)


def command(arguments: str) -> str:
    """This program with other arguments, as it can be typed in the current folder."""
    return " ".join([from_here(Path(sys.executable)), from_here(CODE / "run_pipeline.py"), arguments])


def from_here(path: Path) -> str:
    """A path, from the current folder on if it lies there."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def table_of(*columns: str) -> Table:
    """An empty table in the style of all tables here."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in columns:
        table.add_column(name, no_wrap=True)
    return table


def facts_of(title: str, pairs: Iterable[tuple[str, str]]) -> Table:
    """Names and values, which may hold markup, under a title."""
    table = Table(title=title or None, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, value in pairs:
        table.add_row(f"[bold]{name}[/]", value, style=None)
    return table


def _best(outcome: Outcome) -> str:
    assert outcome.trained is not None
    stopped = f"; stopped early: {outcome.trained.stopped}" if outcome.trained.stopped else ""
    return f"best after update {outcome.trained.best_update} of {outcome.trained.num_updates}{stopped}"


def _figures(report: Report) -> Table:
    """The metrics that a reader asks for first, as in the report."""
    table = Table("metric", "base", "trained", f"change ({level(report.confidence)} interval)")
    for name in leading(report):
        if name in report.metrics:
            row = report.metrics[name]
            change = f"{signed(row.change)}  ({span(row.lower, row.upper)})"
            change += f", {nothing_seen(row.unseen)}" if row.unseen else ""
            label = f"[bold]{name}[/]" if name == report.wanted else name
            table.add_row(label, number(row.reference), number(row.candidate), change)
    return table


def _times(outcome: Outcome) -> str:
    """Seconds of each step's own call, and what was spent around them."""
    spent = {step.name: f"{step.seconds:.1f}" if step.status == "completed" else "reused" for step in outcome.steps}
    parts = ", ".join(f"{name} {seconds}" for name, seconds in spent.items())
    return f"[dim]seconds: {parts}; outside the steps {outcome.overhead:.1f}; in all {outcome.seconds:.1f}[/]"
