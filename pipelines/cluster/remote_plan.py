"""What `plan` adds for a remote stack: pods, Jobs, where artifacts go, GPU-hours and their price."""

from collections.abc import Iterable

from rich.console import Console
from rich.markup import escape

from pipelines.cluster.jobs import Job, check_jobs, render_jobs
from pipelines.cluster.prices import find_price
from pipelines.cluster.remote import for_pods
from pipelines.cluster.resources import DISK, docker_settings, max_retries, num_gpus, refuse_nodes
from pipelines.cluster.stack_files import StackFile
from pipelines.stacks import storage_in
from pipelines.summary import facts_of, table_of
from srpo.config import RunConfig
from srpo.errors import ConfigError
from srpo.forecast.price import planned_gpu_hours
from srpo.strict import Strict

IGNORED = "follows cores, GPUs and retries alone, no memory, node pool, spot or timeout"
"""What becomes of `resources` on Kubeflow."""


class RemotePlan(Strict):
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
    gpu_hours: dict[str, float] | None
    """Predicted for each step that takes a GPU, of training and evaluation; None where no kind of GPU is named."""
    price: float | None
    """USD for all of them; None also where `infra/prices.yaml` does not say."""


def plan_remotely(config: RunConfig, stack: StackFile, steps: tuple[str, ...]) -> RemotePlan:
    """Render and check everything; `stack` has its variables filled in. Raises ConfigError."""
    flavor = stack.orchestrator.flavor
    if flavor == "local":
        raise ConfigError(f"stack {stack.name} runs on this machine; plan without --stack")
    artifacts = str(stack.artifact_store.configuration["path"])
    for_pods(config, storage_in(artifacts))
    if config.resources.train.nodes > 1 and stack.step_operator is None:
        refuse_nodes(config, stack.name)
    jobs = render_jobs(config, stack, steps) if flavor == "kubernetes" else {}
    hours, price = _priced(config, steps, spot=bool(jobs))
    return RemotePlan(
        config=config,
        steps=steps,
        stack=stack.name,
        image=str(docker_settings(config).parent_image),
        artifacts=artifacts,
        jobs=jobs,
        checked=check_jobs(jobs) if jobs else f"none: {flavor} makes pods of its own, and {IGNORED}",
        gpu_hours=hours,
        price=price,
    )


def _priced(config: RunConfig, steps: Iterable[str], spot: bool) -> tuple[dict[str, float] | None, float | None]:
    """GPU-hours of each step that trains or evaluates on one, and USD for them; `spot`: the stack can ask for such."""
    on_gpus = [step for step in steps if step in ("train", "evaluate") and num_gpus(config, step)]
    if not on_gpus:
        return {}, 0.0
    gpu = config.resources.gpu
    if gpu is None:
        return None, None
    planned = planned_gpu_hours(config)
    assert planned is not None
    usd = {step: find_price(gpu, spot and config.resources.of(step).spot) for step in on_gpus}
    costs = [planned[step] * price for step, price in usd.items() if price is not None]
    return {step: planned[step] for step in on_gpus}, sum(costs) if len(costs) == len(usd) else None


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
            str((max_retries(plan.config, step) if plan.jobs else asked.retries) + 1),
            str(asked.timeout or "any"),
        )
    console.print(table)
    facts = {"image": plan.image, "artifacts": plan.artifacts, "Jobs": plan.checked, "disk": _disk(plan)}
    facts["GPU-hours"] = _hours(plan)
    console.print(facts_of(f"on stack {plan.stack}", ((name, escape(value)) for name, value in facts.items())))


def _disk(plan: RemotePlan) -> str:
    """What the pods ask of their nodes' disks."""
    pods = {step: job["spec"]["template"]["spec"]["containers"][0] for step, job in plan.jobs.items()}
    asked = {step: pod["resources"]["requests"].get(DISK) for step, pod in pods.items()}
    found = ", ".join(f"{step} {size}" for step, size in asked.items() if size)
    return f"{found} of the node ({DISK})" if found else "none is asked of the nodes"


def _hours(plan: RemotePlan) -> str:
    resources = plan.config.resources
    if plan.gpu_hours is None:
        return "not predicted; set resources.gpu, or give --gpu"
    if not plan.gpu_hours:
        return "none: neither training nor evaluation takes a GPU"
    hours = ", ".join(f"{step} {hours:.3g}" for step, hours in plan.gpu_hours.items())
    cost = f"infra/prices.yaml lacks a price of {resources.gpu}"
    if plan.price is not None:
        cost = f"{plan.price:.2f} USD by infra/prices.yaml"
    found = f"{hours} of {resources.gpu} (predicted); {cost}"
    most = resources.max_gpu_hours
    late = most and most < plan.gpu_hours.get("train", 0.0)
    return f"{found}; training stops at resources.max_gpu_hours {most:g}" if late else found
