#!/usr/bin/env python3
"""The command line of SRPO: `python run_pipeline.py --help`.

Exit codes: 0 done; 42 it cannot work as it is asked for (a setting, a file, a folder): trying again will not help;
anything else: it may work when tried again.
"""

import contextlib
import json
import signal
import sys
import time
import traceback
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from pipelines.place import here
from srpo.errors import EXIT_PERMANENT, ConfigError, TrainingStoppedError, UnreachableError

if TYPE_CHECKING:
    from pipelines.runs import RunRecord
    from srpo.config import RunConfig
    from srpo.cost import Prediction
    from srpo.plan import Plan

STARTED = time.monotonic()
INTERRUPTED = 130
DEFAULT_CONFIG = Path(__file__).parent / "configs" / "shapes.yaml"
EXPORT_FORMS = ("transformer", "lora", "fp8", "folder")
HARDWARE = DEFAULT_CONFIG.parent / "hardware"
STEP_NAMES = ("download", "embed", "train", "evaluate", "register")

console = Console()
app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help=(
        "SRPO: align a text-to-image model with what a reward model understands of control words.\n\n"
        "Start with [bold]run[/]: it trains the small embedded model in a few minutes on two CPU cores. All that a run "
        "writes lies in [bold].srpo/[/] of the folder you are in. Then [bold]generate[/] draws with the result, "
        "[bold]ui[/] shows all numbers, and [bold]plan --config YOURS.yaml[/] checks your own model, reward and "
        "prompts before any work."
    ),
)

ConfigOption = Annotated[
    list[Path] | None,
    typer.Option(
        help="Run file (YAML); configs/ has examples. Further ones change it: --config configs/hardware/24gb.yaml.",
        show_default="configs/shapes.yaml",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting of the run file; may be repeated."),
]
FromOption = Annotated[
    str | None,
    typer.Option("--from", metavar="STEP", help="Start here, with the results of the experiment's last run so far."),
]
ModelOption = Annotated[
    str,
    typer.Option(
        help="A diffusers folder, hf://OWNER/NAME, s3://BUCKET/PREFIX, builtin:shapes, or a registered model "
        "(NAME@ALIAS, models:/NAME/VERSION); with --base, a transformer's file or folder."
    ),
]
BaseOption = Annotated[
    str | None, typer.Option(help="Diffusers folder that gives a lone transformer its VAE, text encoders and config.")
]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="STEP", help="Stop after this step.")]


@app.command()
def run(
    config: ConfigOption = None,
    set_: SetOption = None,
    from_: FromOption = None,
    until: UntilOption = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a run that failed or stopped; `status` lists them.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check and show; the same as `plan`.")] = False,
) -> None:
    """Run the pipeline: download, embed, train, evaluate, register.

    Without options it aligns the embedded Shapes model. Ctrl-C stops a run; --resume goes on with it.
    """
    if resume is not None:
        if config or set_ or from_ or until or dry_run:
            raise ConfigError("--resume goes on with the run's own settings; leave the other options out")
        _resume(resume)
        return
    plan = _plan(config, set_, from_, until)
    if dry_run:
        _show_plan(plan)
        return
    from pipelines.execute import new_run

    _execute(new_run(here(), plan))


@app.command()
def plan(
    config: ConfigOption = None,
    set_: SetOption = None,
    from_: FromOption = None,
    until: UntilOption = None,
    gpu: Annotated[str | None, typer.Option(help="Also predict memory and time on this GPU (H100, 4090, ...).")] = None,
) -> None:
    """Check a run and show what it would do, without doing it: settings, files, layouts, reward, prompts, disk."""
    checked = _plan(config, set_, from_, until)
    _show_plan(checked)
    if gpu is not None:
        from pipelines.summary import show_prediction
        from srpo.plan import price

        with console.status("counting operations and bytes of an update"):
            prediction = price(checked.config, gpu)
            smaller = None if prediction.fits else _preset_that_fits(config, set_, gpu)
        show_prediction(console, prediction, smaller)


@app.command()
def job(
    out: Annotated[Path, typer.Option(help="Folder for the job and all that training writes.")],
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Prepare training without the pipeline: fetch, embed, write job.json, and print the command that trains it."""
    settings = _load(config, tuple(set_ or ()))
    here().prepare(settings.model.source, settings.reward.source)
    from srpo.launch import prepare_job
    from srpo.plan import make_plan

    with console.status("checking settings, files and layouts; encoding the prompts"):
        make_plan(settings, out, ("embed", "train"))
        path = prepare_job(settings, out.resolve())
    processes = settings.train.num_processes
    several = f"--multi_gpu --num_processes {processes}" if processes > 1 else "--num_processes 1"
    console.print(f"accelerate launch {several} -m srpo.train {path}", soft_wrap=True, highlight=False)


@app.command()
def generate(
    model: ModelOption,
    prompts: Annotated[
        str, typer.Option(metavar="FILE_OR_TEXT", help="A file with one prompt per line, or one prompt.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    base: BaseOption = None,
    config: Annotated[
        Path | None,
        typer.Option(help="For a folder: a run file with image size, steps and guidance (else 1024x1024, 50, 3.5)."),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Picture i (from 0) gets seed + i.")] = None,
    num_steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0, help="Guidance.")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Control word in front of each prompt; '' for none.")] = None,
    num_processes: Annotated[int | None, typer.Option(min=1, help="Processes; one per GPU if not given.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Draw again what is there already.")] = False,
) -> None:
    """Make one PNG per prompt; each says in its text fields which prompt, seed and model made it.

    What an earlier call has drawn with the same settings is kept.
    """
    settings = _load([config], ()) if config else None
    place = here()
    place.prepare(model, base or "")
    from srpo.generate import read_texts
    from srpo.pictures import write_pictures
    from srpo.reference import find_model

    texts = read_texts(prompts)
    with console.status("finding the model"):
        uri = place.mlflow_uri if place.mlflow_database.exists() else None
        files = find_model(model, settings, uri, base).resized(height, width)
    given = {"seed": seed, "num_steps": num_steps, "guidance": guidance, "prefix": prefix}
    sampling = files.sampling.model_copy(update={key: value for key, value in given.items() if value is not None})
    files = files.model_copy(update={"sampling": sampling})
    for path in write_pictures(files, texts, out, num_processes, overwrite):
        typer.echo(path)


@app.command()
def words(
    config: ConfigOption = None,
    set_: SetOption = None,
    words_: Annotated[
        str | None, typer.Option("--words", metavar="A,B", help="Wanted words instead of the run file's.")
    ] = None,
    against: Annotated[str | None, typer.Option(metavar="C,D", help="Unwanted words, likewise.")] = None,
    num_prompts: Annotated[int, typer.Option(min=2, help="Held-out prompts to measure on.")] = 30,
    json_: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Tell how well the reward knows control words: a word that it does not know does nothing in training.

    Known: pictures that show the word score higher with it than pictures that lack it (the interval of that share
    from 0.75 on); weak: above chance; unknown: not told apart. Shapes renders its style words truly; otherwise the
    model draws the pictures, with the word and without.
    """
    settings = _load(config, tuple(set_ or ()))
    here().prepare(settings.model.source, settings.reward.source)
    chosen = [text.split(",") if text else [] for text in (words_, against)]
    wanted, unwanted = chosen if any(chosen) else (settings.preference.positive, settings.preference.negative)
    names = [word.strip() for word in (*wanted, *unwanted)]
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"control words must be different and not blank, got {', '.join(map(repr, names))}")
    with contextlib.redirect_stdout(sys.stderr):  # what libraries say as they load is no part of the JSON
        from pipelines.summary import show_words
        from srpo.evaluation.words import measure_words

        reports = measure_words(settings, names, num_prompts)
    if json_:
        typer.echo(json.dumps([report.model_dump() for report in reports], indent=1))
    else:
        show_words(console, reports, len(wanted))


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="As --model of `generate`.")],
    to: Annotated[str, typer.Option(metavar="FOLDER|s3://BUCKET/PREFIX", help="A place where nothing is yet.")],
    form: Annotated[
        str,
        typer.Option(
            "--format", help="transformer (bf16), lora (the adapter), fp8 (for ComfyUI), folder (for diffusers)."
        ),
    ] = "transformer",
    base: BaseOption = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE_OR_TEXT", help="Pictures of the card; two held-out prompts of the run if not given."
        ),
    ] = None,
) -> None:
    """Write a model for diffusers or ComfyUI, with a model card made from its run; licences are shown first."""
    if form not in EXPORT_FORMS:
        raise ConfigError(f"--format {form}: choose from {', '.join(EXPORT_FORMS)}")
    place = here()
    place.prepare(model, base or "")
    from srpo.export import export as export_model
    from srpo.export.card import find_licences
    from srpo.generate import read_texts
    from srpo.reference import find_model
    from srpo.registry import load_report

    uri = place.mlflow_uri if place.mlflow_database.exists() else None
    files = find_model(model, None, uri, base)
    report = load_report(uri, files.reference) if uri and files.reference.startswith("models:/") else None
    licences = find_licences(files, report)
    for licence in licences:
        console.print(f"licence of the {licence.subject} ({licence.source}): {licence.terms}", soft_wrap=True)
    drawn = [image.prompt for image in report.images] if report else []
    texts = read_texts(prompts) if prompts else list(dict.fromkeys(drawn))[:2]
    with console.status("exporting"):
        export_model(files, to, form, licences, report, texts)  # type: ignore[arg-type]
    typer.echo(to)


@app.command()
def status() -> None:
    """List runs with their state and verdict, and registered models with their aliases."""
    here().prepare()
    from pipelines.summary import show_status

    show_status(console, here())


@app.command()
def ui(port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000) -> None:
    """Serve MLflow's page for the runs of this folder, until Ctrl-C."""
    place = here()
    if not place.mlflow_database.exists():
        raise ConfigError(f"nothing to show: no runs in {place.root} yet; start one with `run`")
    place.prepare()
    from srpo.doctor import port_is_free
    from srpo.tracking import serve_page

    if not port_is_free(port):
        raise ConfigError(f"port {port} is in use; choose another with --port")
    console.print(f"MLflow's page: http://127.0.0.1:{port}   (Ctrl-C ends it)")
    serve_page(place.mlflow_uri, place.mlflow_artifacts_uri, port)


@app.command()
def doctor() -> None:
    """Print what is installed and how this machine looks: one block to paste into a bug report."""
    here().prepare()
    from srpo.doctor import examine

    for subject, finding in examine(here().root, Path(__file__).parent / "constraints.txt"):
        typer.echo(f"{subject:>16}: {finding}")


def _preset_that_fits(config: list[Path] | None, set_: list[str] | None, gpu: str) -> "tuple[Path, Prediction] | None":
    """The largest hardware preset that lets the run fit, with what it would then take."""
    from srpo.plan import price

    sizes = {int(path.stem.removesuffix("gb")): path for path in HARDWARE.glob("*gb.yaml") if "x" not in path.stem}
    for _, preset in sorted(sizes.items(), reverse=True):
        prediction = price(_load([*(config or [DEFAULT_CONFIG]), preset], tuple(set_ or ())), gpu)
        if prediction.fits:
            return preset, prediction
    return None


def _resume(name: str) -> None:
    place = here()
    place.prepare(*place.recorded_sources(name))
    from pipelines.runs import load_run
    from srpo.plan import make_plan

    record = load_run(place, name)
    if record.actual_state == "running":
        raise ConfigError(f"run {name} is still running (process {record.process}); stop it first")
    if record.state == "done":
        raise ConfigError(f"run {name} is done; start a new one, or use --from STEP to repeat a part with its results")
    written = sum(path.stat().st_size for path in record.path.rglob("*") if path.is_file())
    make_plan(record.config, place.root, record.steps, written)
    _execute(record)


def _execute(record: "RunRecord") -> None:
    """Run, and whatever stops the run, say how to go on with it."""
    from pipelines.execute import execute
    from pipelines.summary import command, show_outcome

    place = here()
    try:
        outcome = execute(place, record, STARTED)
    except BaseException as error:
        console.print(f"[yellow]stopped.[/] Go on with:  {command(f'run --resume {record.name}')}", soft_wrap=True)
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(INTERRUPTED) from None
        raise
    show_outcome(console, place, outcome)


def _plan(config: list[Path] | None, set_: list[str] | None, from_: str | None, until: str | None) -> "Plan":
    """Read and check everything; nothing expensive happens."""
    steps = _steps(from_, until)
    settings = _load(config, tuple(set_ or ()))
    place = here()
    place.prepare(settings.model.source, settings.reward.source)
    with console.status("checking settings, files and layouts"):
        from srpo.plan import make_plan

        return make_plan(settings, place.root, steps)


def _steps(from_: str | None, until: str | None) -> tuple[str, ...]:
    """The steps from one to another, both included."""
    for option, step in (("--from", from_), ("--until", until)):
        if step is not None and step not in STEP_NAMES:
            raise ConfigError(f"{option} {step}: no such step; choose from {', '.join(STEP_NAMES)}")
    first = STEP_NAMES.index(from_) if from_ else 0
    last = STEP_NAMES.index(until) if until else len(STEP_NAMES) - 1
    if first > last:
        raise ConfigError(f"--from {from_} comes after --until {until}; the order is {', '.join(STEP_NAMES)}")
    return STEP_NAMES[first : last + 1]


def _load(config: list[Path] | None, overrides: tuple[str, ...]) -> "RunConfig":
    """The run files, the demo's if there are none; what they warn of is said once, in plain words."""
    from srpo.config import load_config

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        settings = load_config(config or [DEFAULT_CONFIG], overrides)
    for warning in caught:
        console.print(f"[yellow]warning:[/] {warning.message}")
    return settings


def _show_plan(plan: "Plan") -> None:
    from pipelines.summary import show_plan

    show_plan(console, plan)


def _write_traceback() -> Path:
    """Details of an unexpected error, in a file of their own."""
    folder = here().logs
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"error-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}.txt"
    path.write_text(traceback.format_exc(), encoding="utf-8")
    return path


def _interrupt(*_: object) -> None:
    """A request to end (SIGTERM, from a scheduler or a service manager) is treated like Ctrl-C."""
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors become one clear sentence and an exit code."""
    problems = Console(stderr=True)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app(arguments)
    except (ConfigError, TrainingStoppedError) as error:
        problems.print("[bold red]error:[/]", escape(str(error)), highlight=False, soft_wrap=True)
        sys.exit(EXIT_PERMANENT)
    except UnreachableError as error:
        problems.print("[bold yellow]unreachable:[/]", escape(str(error)), highlight=False, soft_wrap=True)
        sys.exit(1)
    except Exception as error:
        path = _write_traceback()
        problems.print(f"[bold red]unexpected error:[/] {type(error).__name__}: {escape(str(error))}", soft_wrap=True)
        problems.print(f"the details are in {path}", soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
