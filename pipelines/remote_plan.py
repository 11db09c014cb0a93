"""What `plan` adds for a remote stack: pods, Jobs, where artifacts go, GPU-hours and their price."""

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape

from pipelines.jobs import Job, check_jobs, render_jobs
from pipelines.prices import find_price
from pipelines.resources import docker_settings, num_gpus
from pipelines.stack_files import StackFile
from pipelines.summary import show_facts, table_of
from srpo.config import RunConfig, Settings
from srpo.errors import ConfigError
from srpo.price import planned_gpu_hours


class RemotePlan(Settings):
    """A run on a remote stack before it starts."""

    config: RunConfig
    steps: tuple[str, ...]
    stack: str
    image: str
    artifacts: str
    """Where everything that lasts is written."""
    jobs: dict[str, Job]
    """Step -> rendered Job; empty where the orchestrator makes none."""
    checked: str
    gpu_hours: float | None
    """Predicted for all updates of training; None where no kind of GPU is named."""
    price: float | None
    """USD for those."""


def plan_remotely(config: RunConfig, stack: StackFile, steps: tuple[str, ...]) -> RemotePlan:
    """Render and check everything; `stack` has its variables filled in. Raises ConfigError."""
    flavor = stack.orchestrator.flavor
    if flavor == "local":
        raise ConfigError(f"stack {stack.name} runs on this machine; plan without --stack")
    jobs = render_jobs(config, stack, steps) if flavor == "kubernetes" else {}
    hours, price = _priced(config, steps)
    return RemotePlan(
        config=config,
        steps=steps,
        stack=stack.name,
        image=str(docker_settings(config).parent_image),
        artifacts=str(stack.artifact_store.configuration["path"]),
        jobs=jobs,
        checked=check_jobs(jobs) if jobs else f"none: {flavor} makes pods of its own",
        gpu_hours=hours,
        price=price,
    )


def _priced(config: RunConfig, steps: Iterable[str]) -> tuple[float | None, float | None]:
    """GPU-hours of training, and USD for them."""
    if "train" not in steps or num_gpus(config, "train") == 0:
        return 0.0, 0.0
    gpu = config.resources.gpu
    if gpu is None:
        return None, None
    usd = find_price(gpu, config.resources.train.spot)  # before anything is counted
    hours = planned_gpu_hours(config)
    assert hours is not None
    return hours, hours * usd


def show_remote_plan(console: Console, plan: RemotePlan) -> None:
    """One row per step, then the facts."""
    table = table_of("step", "pods", "GPUs", "cores", "GiB", "nodes", "tries", "minutes")
    for step in plan.steps:
        asked = plan.config.resources.of(step)
        nodes = [*(f"{key}={value}" for key, value in asked.node_pool.items()), "spot" if asked.spot else "on demand"]
        table.add_row(
            step,
            str(plan.config.resources.train.nodes if step == "train" else 1),
            str(num_gpus(plan.config, step)),
            f"{asked.cpu:g}",
            str(asked.memory),
            escape(", ".join(nodes)),
            str(asked.retries + 1),
            str(asked.timeout or "any"),
        )
    console.print(table)
    facts = {"image": plan.image, "artifacts": plan.artifacts, "Jobs": plan.checked, "GPU-hours": _hours(plan)}
    show_facts(console, f"on stack {plan.stack}", facts)


def _hours(plan: RemotePlan) -> str:
    resources = plan.config.resources
    if plan.gpu_hours is None or plan.price is None:
        return "not predicted; set resources.gpu, or give --gpu"
    if plan.gpu_hours == 0:
        return "none: no step that trains takes a GPU"
    nodes = "spot" if resources.train.spot else "on demand"
    found = (
        f"{plan.gpu_hours:.3g} of {resources.gpu} for all updates, without measurements and evaluation (predicted); "
        f"{plan.price:.2f} USD {nodes} by infra/prices.yaml"
    )
    most = resources.max_gpu_hours
    return f"{found}; stopped at resources.max_gpu_hours {most:g}" if most and most < plan.gpu_hours else found
