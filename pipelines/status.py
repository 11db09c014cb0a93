"""What `status` shows: runs, registered versions with their gates, and the moves of the champions."""

import json
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.place import Place
from pipelines.runs import RunRecord, load_runs, unreadable_runs
from pipelines.summary import command, table_of
from srpo.registry import Version, champion_moves, that_happened, versions
from srpo.steps import STEPS

STATE_COLOURS = {"done": "green", "running": "cyan", "failed": "red", "interrupted": "yellow"}
LATEST = 5
"""Moves of a champion that are shown; --json has all."""


def show_status(console: Console, place: Place, uri: str | None) -> None:
    """Runs, newest first, then the versions registered in an MLflow store and the latest moves of their champions."""
    records = load_runs(place)
    if unreadable := unreadable_runs(place):
        why = "of another version of srpo, damaged, or copied from elsewhere"
        console.print(f"[yellow]left out:[/] {escape(', '.join(unreadable))}: {why}")
    if records:
        console.print(_runs(records))
        for record in records:
            if record.actual_state == "failed" and record.error:
                why = f"{record.name}: {record.error.splitlines()[0]}"
                console.print(f"[red]{escape(why)}[/]", soft_wrap=True, highlight=False)
    else:
        console.print(f"no runs in {place.root} yet; start one with:  {command('run')}", soft_wrap=True)
    if uri is None:
        return
    models = versions(uri)
    console.print(_versions(models) if models else "no registered models yet")
    if any(moves for moves, _ in champion_moves(uri).values()):
        console.print(_moves(uri))


def status_json(place: Place, uri: str | None) -> str:
    """The same as JSON, with every limit of every gate and every move."""
    runs = [
        {
            "name": record.name,
            "state": record.actual_state,
            "verdict": record.verdict,
            "error": record.error,
            "created": str(record.created),
        }
        for record in load_runs(place)
    ]
    found = {"runs": runs, "unreadable": unreadable_runs(place), "versions": [], "moves": []}
    if uri:
        found["versions"] = [_version_json(version) for version in versions(uri)]
        found["moves"] = [
            {"happened": move in that_happened(moves, champion), **move.model_dump(mode="json")}
            for moves, champion in champion_moves(uri).values()
            for move in moves
        ]
    return json.dumps(found, indent=1)


def age(then: datetime) -> str:
    """How long ago, in its largest unit."""
    passed = datetime.now(UTC) - then
    units = {"d": timedelta(days=1), "h": timedelta(hours=1), "min": timedelta(minutes=1)}
    return next((f"{passed // unit} {name}" for name, unit in units.items() if passed >= unit), "now")


def _runs(records: list[RunRecord]) -> Table:
    table = table_of("run", "state", "steps", "verdict", "started (UTC)")
    for record in records:
        state = record.actual_state
        part = (
            "all" if record.steps == tuple(STEPS) else " .. ".join(dict.fromkeys((record.steps[0], record.steps[-1])))
        )
        shown = f"[{STATE_COLOURS[state]}]{state}[/]"
        table.add_row(record.name, shown, part, record.verdict, f"{record.created:%Y-%m-%d %H:%M}")
    return table


def _versions(found: list[Version]) -> Table:
    table = table_of("model", "aliases", "age", "MB", "run", "verdict")
    table.columns[-1].no_wrap = False
    for entry in found:
        size = f"{entry.size / 1e6:,.1f}"
        verdict = ": ".join(filter(None, (entry.verdict, entry.gate_summary)))
        row = (entry.reference, "\n".join(entry.aliases), age(entry.created), size, entry.run_name)
        table.add_row(*row, escape(verdict))
    return table


def _moves(uri: str) -> Table:
    table = table_of("champion", "from", "to", "by", "at (UTC)", "reason")
    table.columns[-1].no_wrap = False
    for name, (moves, champion) in champion_moves(uri).items():
        happened = that_happened(moves, champion)
        for move in moves[: -LATEST - 1 : -1]:
            to = move.after if move in happened else f"{move.after} (did not happen)"
            who = "gate" if move.kind == "gate" else f"{move.user}, {move.kind}"
            table.add_row(name, move.before or "-", to, who, f"{move.time:%Y-%m-%d %H:%M}", escape(move.reason))
    return table


def _version_json(version: Version) -> dict[str, object]:
    gate = [{**result.model_dump(mode="json"), "margin": result.margin} for result in version.gate]
    return {**version.model_dump(mode="json", exclude={"gate"}), "gate": gate}
