"""Commands that train: `run`, `plan`, `job`."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.commands.common import (
    DEFAULT_CONFIG,
    ConfigOption,
    FromOption,
    SetOption,
    UntilOption,
    console,
    load,
    registered,
)
from pipelines.place import CODE, here
from srpo.errors import BusyError, ConfigError, OutOfSightError
from srpo.steps import STEPS

if TYPE_CHECKING:
    from pipelines.runs import RunRecord
    from srpo.config import RunConfig
    from srpo.forecast.price import Prediction
    from srpo.plan import Plan

STARTED = time.monotonic()
INTERRUPTED = 130
HARDWARE = CODE / "configs" / "hardware"


def run(
    config: ConfigOption = None,
    set_: SetOption = None,
    from_: FromOption = None,
    until: UntilOption = None,
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a run that failed or stopped; `status` lists them.")
    ] = None,
    if_new_data: Annotated[
        bool,
        typer.Option(
            "--if-new-data",
            help="Only if prompts, images or control words have changed since the champion was trained; start from it.",
        ),
    ] = False,
    stack: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Run on this stack (`stack up NAME` registers it); with --resume: where another machine started it.",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Do not wait for a run on a cluster; `run --resume RUN` watches it later.")
    ] = False,
) -> None:
    """Run the pipeline: download, embed, train, evaluate, register.

    Without options it aligns the embedded Shapes model. Ctrl-C stops a run; --resume goes on with it, with other
    resources, or in less memory (train.gradient_checkpointing, align.together and the like), if --set says so; where
    resources.max_gpu_hours ended it, a larger one lets it go on from there.
    """
    if if_new_data:
        if from_ or until or resume:
            raise ConfigError("--if-new-data runs the whole pipeline; leave --from, --until, --resume out")
        if detach:
            raise ConfigError("--if-new-data waits for the run, to tell how it ended; leave --detach out")
        _run_if_new_data(load(config, tuple(set_ or ())), registered(stack))
        return
    if resume is not None:
        if config or from_ or until or detach:
            raise ConfigError("--resume goes on with the run's own settings; leave other options than --set out")
        _resume(resume, set_, registered(stack))
        return
    settings, steps = load(config, tuple(set_ or ())), _steps(from_, until)
    if detach and not stack:
        raise ConfigError("--detach is for runs on a cluster; name its stack with --stack")
    in_pods = bool(stack) and _in_pods(settings, registered(stack))
    plan = _check(settings, steps, elsewhere=in_pods)
    from pipelines.execute import new_run
    from srpo.devices import check_processes

    if "train" in steps and not in_pods:
        check_processes(settings.train.num_processes)
    record = new_run(here(), plan, registered(stack))
    if detach:
        _submit(record)
    else:
        _execute(record)


def plan(
    config: ConfigOption = None,
    set_: SetOption = None,
    from_: FromOption = None,
    until: UntilOption = None,
    gpu: Annotated[str | None, typer.Option(help="Also predict memory and time on this GPU (H100, 4090, ...).")] = None,
    stack: Annotated[
        str | None, typer.Option(metavar="NAME", help="Also show pods, GPU-hours and price on a stack of infra/stacks.")
    ] = None,
    jobs: Annotated[Path | None, typer.Option(help="Write the Jobs of --stack to this file.")] = None,
) -> None:
    """Check a run and show what it would do, without doing it: settings, files, layouts, reward, prompts, disk."""
    if jobs and not stack:
        raise ConfigError("--jobs writes what --stack renders; give --stack too")
    if gpu:
        from srpo.gpus import find_gpu

        find_gpu(gpu)
    overrides = (*(set_ or ()), *([f"resources.gpu={gpu}"] if gpu and stack else []))
    checked = _check(load(config, overrides), _steps(from_, until), elsewhere=stack is not None)
    _look_for_earlier(checked, registered(stack))
    _show_plan(checked)
    if stack is not None:
        _plan_on(checked, stack, jobs)
    if gpu is not None:
        from pipelines.summary import show_prediction
        from srpo.forecast.price import price

        with console.status("counting operations and bytes of an update"):
            prediction = price(checked.config, gpu)
            smaller = None if prediction.fits else _preset_that_fits(config, set_, gpu)
        show_prediction(console, prediction, smaller)


def _look_for_earlier(plan: "Plan", stack: str | None) -> None:
    """ConfigError where a run that starts in the middle would find nothing to go on from."""
    from pipelines.earlier import earlier_outputs
    from pipelines.stacks import client_of

    if plan.steps[0] != next(iter(STEPS)):
        client_of(here())
        earlier_outputs(here(), plan.config, plan.steps[0], stack)


def _plan_on(plan: "Plan", name: str, jobs: Path | None) -> None:
    """Show what the run would be on a remote stack; `jobs`: where to write its Jobs."""
    import yaml

    from pipelines.cluster.remote_plan import plan_remotely, show_remote_plan
    from pipelines.cluster.stack_files import fill, read_stack

    with console.status("rendering the Jobs, counting operations of an update"):
        remote = plan_remotely(plan.config, fill(read_stack(name)), plan.steps)
    show_remote_plan(console, remote)
    if jobs is not None:
        if not remote.jobs:
            raise ConfigError(f"--jobs: stack {name} makes no Jobs")
        jobs.write_text(yaml.safe_dump_all(remote.jobs.values(), sort_keys=False), encoding="utf-8")


def job(
    out: Annotated[Path, typer.Option(help="Folder for the job and all that training writes.")],
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Prepare training without the pipeline: fetch, embed, write job.json, and print the command that trains it."""
    settings, place = load(config, tuple(set_ or ())), here()
    place.prepare(*settings.inputs)
    from srpo.artifacts import TrainJob
    from srpo.durable.succession import CHECKPOINTS
    from srpo.launch import JOB, launch_command, prepare_job
    from srpo.start import pinned

    with console.status("checking settings, files and layouts; encoding the prompts"):
        began = (out / JOB).exists() and any((out / CHECKPOINTS).glob("update-*"))
        settings = pinned(settings, place.mlflow_uri, TrainJob.load(out / JOB).config if began else None)
        path = prepare_job(settings, out.resolve(), place.mlflow_uri)
    console.print(shlex.join(launch_command(settings.train, path)), soft_wrap=True, highlight=False)


def _preset_that_fits(config: list[Path] | None, set_: list[str] | None, gpu: str) -> "tuple[Path, Prediction] | None":
    """The largest hardware preset that lets the run fit, instead of one that it has, with what it would then take."""
    from srpo.forecast.price import price_if_it_fits

    sizes = {int(path.stem.removesuffix("gb")): path for path in HARDWARE.glob("*gb.yaml") if "x" not in path.stem}
    own = [path for path in config or [DEFAULT_CONFIG] if not path.resolve().is_relative_to(HARDWARE)]
    for _, preset in sorted(sizes.items(), reverse=True):
        try:
            settings = load([*(own or [DEFAULT_CONFIG]), preset], tuple(set_ or ()))
        except ConfigError:  # it does not go with what --set or another file says
            continue
        if prediction := price_if_it_fits(settings, gpu):
            return preset, prediction
    return None


def _run_if_new_data(settings: "RunConfig", stack: str | None) -> None:
    """Look first; a run, which starts from the champion unless the config says otherwise, only if it can learn."""
    place = here()
    place.prepare(*settings.inputs)
    from pipelines.elsewhere import at_work
    from pipelines.execute import new_run
    from pipelines.new_data import from_champion, look
    from pipelines.notify import Notice, failure_told, tell
    from pipelines.stacks import activate

    with failure_told(settings):
        record = at_work(place, stack, settings.registry.model_name) if stack else None
    if record:
        console.print(f"{record.name} is at work on this model already, and is watched instead", soft_wrap=True)
        _execute(record)
        return
    with failure_told(settings):
        active = activate(place, stack)
        found = look(settings, active.tracking_uri)
        console.print(f"{found}.", soft_wrap=True, highlight=False)
        elsewhere = active.storage is not None
        plan = _check(from_champion(settings), tuple(STEPS), elsewhere) if found.anything else None
        record = new_run(place, plan, stack) if plan else None
    if record:
        _execute(record)
    else:
        name = settings.registry.model_name
        tell(settings.notify, Notice(event="nothing_new", text=f"{name}: {found}.", model=name))


def _resume(name: str, set_: list[str] | None, stack: str | None) -> None:
    """`stack`: where to look for a run that another machine has submitted."""
    place = here()
    place.prepare(*place.recorded_inputs(name), *(["hf://"] if stack else []))  # whose sources are not known yet
    from pipelines.resumption import to_resume

    if stack:
        from pipelines.elsewhere import adopt

        adopt(place, stack)
    record = to_resume(place, name, tuple(set_ or ()))
    if record.name != name:
        console.print(f"run {record.name} goes on from the last checkpoint of {name}", soft_wrap=True, highlight=False)
    _execute(record)


def _submit(record: "RunRecord") -> None:
    from pipelines.execute import submit
    from pipelines.summary import command

    submit(here(), record)
    console.print(f"handed over; watch it with:  {command(f'run --resume {record.name}')}", soft_wrap=True)


def _execute(record: "RunRecord") -> None:
    """Run, and whatever stops the run, say how to go on with it; how it ended is told to those who asked."""
    from pipelines.execute import attach, execute
    from pipelines.notify import ended as notice_of
    from pipelines.notify import failure_told, tell_once
    from pipelines.summary import command, show_outcome

    watched = record.stack and record.state in ("running", "done") and record.attempts
    try:
        with failure_told(record.config, record.name):
            outcome = (attach if watched else execute)(here(), record, STARTED)
    except BaseException as error:
        if not isinstance(error, BusyError):  # which has stopped nothing
            ended = "out of sight" if isinstance(error, OutOfSightError) else "stopped"
            console.print(f"[yellow]{ended}.[/] Go on with:  {command(f'run --resume {record.name}')}", soft_wrap=True)
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(INTERRUPTED) from None
        raise
    if not record.told and (notice := notice_of(outcome)):
        tell_once(record.config.notify, notice, record.tracked)
        outcome.record.changed(told=True)
    show_outcome(console, outcome)


def _in_pods(settings: "RunConfig", stack: str | None) -> bool:
    """Whether a registered stack runs steps in pods, as ZenML knows it."""
    place = here()
    place.prepare(*settings.inputs)
    from pipelines.stacks import activate

    return activate(place, stack).storage is not None


def _check(settings: "RunConfig", steps: tuple[str, ...], elsewhere: bool) -> "Plan":
    """Check everything; nothing expensive happens. `elsewhere`: it will run in pods, not on this machine's disk."""
    place = here()
    place.prepare(*settings.inputs)
    with console.status("checking settings, files and layouts"):
        from pipelines.notify import webhook
        from srpo.plan import make_plan

        webhook(settings.notify)
        return make_plan(settings, None if elsewhere else place.root, steps)


def _steps(from_: str | None, until: str | None) -> tuple[str, ...]:
    """The steps from one to another, both included."""
    names = tuple(STEPS)
    for option, step in (("--from", from_), ("--until", until)):
        if step is not None and step not in names:
            raise ConfigError(f"{option} {step}: no such step; choose from {', '.join(names)}")
    first = names.index(from_) if from_ else 0
    last = names.index(until) if until else len(names) - 1
    if first > last:
        raise ConfigError(f"--from {from_} comes after --until {until}; the order is {', '.join(names)}")
    return names[first : last + 1]


def _show_plan(plan: "Plan") -> None:
    from pipelines.summary import show_plan

    show_plan(console, plan)
