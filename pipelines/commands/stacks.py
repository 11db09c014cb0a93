"""Commands for ZenML stacks: `stack list`, `stack up`, `stack check`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from pipelines.commands.common import console, zenml_client
from srpo.errors import ConfigError, UnreachableError

if TYPE_CHECKING:
    from zenml.client import Client

    from pipelines.cluster.stack_files import StackFile

stack = typer.Typer(
    no_args_is_help=True,
    help="ZenML stacks of infra/stacks: register them, and see whether their components answer.",
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A file of infra/stacks, without .yaml.")]


@stack.command("list")
def list_() -> None:
    """Show the stacks there are files for, and which of them ZenML knows."""
    client = zenml_client()
    from pipelines.cluster.stack_files import read_stack, stack_names

    for name in stack_names():
        file = read_stack(name)
        known = "registered" if client.list_stacks(name=file.name).total else "not registered"
        flavors = ", ".join(f"{kind} {component.flavor}" for kind, component in file.components.items())
        console.print(f"[bold]{name}[/]: {file.name} ({known}): {flavors}", soft_wrap=True, highlight=False)


@stack.command()
def up(name: NameArgument) -> None:
    """Register a stack, or bring it up to date, and check its components."""
    client = zenml_client()
    from pipelines.cluster.stack_files import fill, read_stack, register

    file = fill(read_stack(name))
    _need_server(client, file)
    _report(client, file, register(client, file))


@stack.command()
def check(name: NameArgument) -> None:
    """Check the components of a stack; nothing is registered or changed."""
    client = zenml_client()
    from pipelines.cluster.stack_files import fill, read_stack, validate

    file = fill(read_stack(name))
    _need_server(client, file)
    validate(client, file)
    _report(client, file, {})


def _need_server(client: "Client", file: "StackFile") -> None:
    """ConfigError if steps would run where ZenML's state of this folder cannot be reached."""
    if file.orchestrator.flavor != "local" and client.zen_store.is_local_store():
        from pipelines.cluster.stack_files import ZENML

        raise ConfigError(
            f"stack {file.name} needs a ZenML server, which its pods reach too: {ZENML} login URL, or ZENML_STORE_URL "
            "and ZENML_STORE_API_KEY (infra/README.md)"
        )


def _report(client: "Client", file: "StackFile", done: Mapping[str, str]) -> None:
    from pipelines.cluster.stack_health import examine

    with console.status("asking the components"):
        findings = examine(client, file)
    for component, healthy, text in findings:
        state = "[green]well[/]" if healthy else "[red]unwell[/]"
        change = f" ({done[component]})" if component in done else ""
        console.print(f"{component:>18}{change}: {state}, {escape(text)}", soft_wrap=True, highlight=False)
    if unwell := [finding.component for finding in findings if not finding.healthy]:
        raise UnreachableError(f"stack {file.name}: {', '.join(unwell)} did not answer as they should, see above")
