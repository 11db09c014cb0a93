"""What all commands share: the application, its console, options that several have, and how a run file is read."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Console
from rich.markup import escape

from pipelines.place import CODE, STACKS, Place, here
from srpo.errors import ConfigError

if TYPE_CHECKING:
    from zenml.client import Client

    from srpo.config import RunConfig

DEFAULT_CONFIG = CODE / "configs" / "shapes.yaml"

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
        "(NAME@ALIAS, models:/NAME/VERSION); with --base, a transformer or an adapter (file, folder, hf://, s3://)."
    ),
]
BaseOption = Annotated[str | None, typer.Option(help="Model, as above, that a lone transformer or adapter belongs to.")]
RegistryOption = Annotated[
    str | None,
    typer.Option("--stack", metavar="NAME", help="Look in the registry of this stack instead of this folder's own."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="STEP", help="Stop after this step.")]


def load(config: list[Path] | None, overrides: tuple[str, ...]) -> "RunConfig":
    """The run files, the demo's if there are none; what they warn of is said once, in plain words."""
    from srpo.config import load_config

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        settings = load_config(config or [DEFAULT_CONFIG], overrides)
    for warning in caught:  # on stderr: what is printed may be JSON
        text = f"[yellow]warning:[/] {escape(str(warning.message))}"
        Console(stderr=True).print(text, soft_wrap=True, highlight=False)
    return settings


def refuse_demo_settings(name: str, source: str) -> None:
    """ConfigError for a model that is no embedded one, where the demo's run file would speak for it in silence."""
    if not source.startswith("builtin:"):
        raise ConfigError(
            f"{name} is no embedded model, but without --config it would be drawn and judged as one, by "
            f"configs/{DEFAULT_CONFIG.name}; give --config with the run file of your model"
        )


def zenml_client() -> "Client":
    """ZenML's client in the current folder, which is made ready for it."""
    place = here()
    place.prepare()
    from pipelines.stacks import client_of

    return client_of(place)


def registered(stack: str | None) -> str | None:
    """The name in ZenML of a stack of infra/stacks, by its file's or its own; another name stays what it is."""
    path = STACKS / f"{stack}.yaml"
    return str(yaml.safe_load(path.read_text(encoding="utf-8"))["name"]) if stack and path.is_file() else stack


def registry_uri(place: Place, stack: str | None) -> str | None:
    """Where registered models are looked up: a stack's MLflow server, else this folder's store, if there is one.

    `place` has been prepared.
    """
    if name := registered(stack):
        from pipelines.stacks import activate

        return activate(place, name).tracking_uri
    return place.mlflow_uri if place.mlflow_database.exists() else None
