"""Commands for registered models: `export`, `promote`, `rollback`, `delete`, `gc`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from pipelines.commands.common import BaseOption, JsonOption, RegistryOption, console, registry_uri
from pipelines.place import Place, here
from srpo.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.collect import Surplus
    from srpo.registry import Move, Version

ReasonOption = Annotated[str, typer.Option(help="Why; it stays in the history that `status` shows.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def export(
    model: Annotated[str, typer.Argument(help="As --model of `generate`.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|s3://BUCKET/PREFIX|hf://OWNER/NAME",
            help="A place where nothing is yet; a new repository of the hub is private.",
        ),
    ],
    form: Annotated[
        Literal["transformer", "lora", "fp8", "folder"] | None,
        typer.Option(
            "--format",
            help="transformer: in bf16; lora: the adapter; fp8: for ComfyUI; folder: for diffusers.",
            show_default="transformer; folder where the model is no FLUX",
        ),
    ] = None,
    base: BaseOption = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="FILE_OR_TEXT",
            help="Pictures of the card; '' for none, two held-out prompts of the run if not given.",
        ),
    ] = None,
    stack: RegistryOption = None,
) -> None:
    """Write a model for diffusers or ComfyUI, with a model card made from its run; licences are shown first."""
    place = here()
    place.prepare(model, base or "", to, prompts or "")
    from srpo.export import export as export_model
    from srpo.export.card import find_licences
    from srpo.generate import read_texts
    from srpo.reference import find_model
    from srpo.registry import load_report

    uri = registry_uri(place, stack)
    files = find_model(model, None, uri, base)
    report = load_report(uri, files.reference) if uri and files.reference.startswith("models:/") else None
    licences = find_licences(files, report)
    for licence in licences:
        console.print(str(licence), soft_wrap=True)
    if prompts is None:
        drawn = [image.prompt for image in report.images] if report else []
        texts = list(dict.fromkeys(drawn))[:2]
    else:
        texts = read_texts(prompts) if prompts else []
    with console.status("exporting"):
        export_model(files, to, form, licences, report, texts)
    typer.echo(to)


def promote(
    model: Annotated[str, typer.Argument(help="NAME/VERSION or NAME@ALIAS; any version, with or without an alias.")],
    reason: ReasonOption,
    as_json: JsonOption = False,
    stack: RegistryOption = None,
) -> None:
    """Make a version champion by hand, whatever its gate said; verdict and licences are shown first."""
    uri = _registry(stack, "; or give --stack")
    from srpo import registry

    version = registry.find_version(uri, model)
    if not as_json:
        _show_terms(version)
    _show_move(registry.promote(uri, version.reference, reason), as_json)


def rollback(
    reason: ReasonOption,
    name: Annotated[str | None, typer.Argument(help="A registered model; not needed where there is one.")] = None,
    as_json: JsonOption = False,
    stack: RegistryOption = None,
) -> None:
    """Give the champion back to the version that had it before; once more, one further back."""
    uri = _registry(stack, "; or give --stack")
    from srpo import registry

    _show_move(registry.rollback(uri, name, reason), as_json)


def delete(
    model: Annotated[str, typer.Argument(help="NAME/VERSION, without an alias.")],
    yes: YesOption = False,
    as_json: JsonOption = False,
    stack: RegistryOption = None,
) -> None:
    """Remove a version, and the checkpoints and weights of its run if nothing else needs them; its report stays.

    Of a stack's registry the version goes alone: what its run has written stays in the storage.
    """
    place, uri = here(), _registry(stack, "; or give --stack")
    from pipelines.collect import delete_version
    from srpo.registry import find_version, refuse_aliases

    version = find_version(uri, model)
    refuse_aliases(version)
    if not yes:
        files = " and its weights" if uri == place.mlflow_uri else ""
        typer.confirm(f"remove version {version.version} of {version.name}{files}?", abort=True, err=True)
    _show_surplus(delete_version(place, version, uri), "removed", place, as_json)


def gc(
    keep: Annotated[int, typer.Option(min=0, help="Newest versions of each model that stay in any case.")] = 5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would go.")] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Remove old versions without an alias, and the weights, checkpoints and embeddings that nothing refers to.

    The version that `rollback` would lead to stays, and so does all that an unfinished run may need. A run that you
    give up: remove .srpo/runs/NAME; gc then frees what it shared. What was fetched into .srpo/store goes where no run
    or version names it and nothing has used it for 30 days; scores, comparisons without votes and details of errors
    go after as long. What storage.remote keeps stays.
    """
    place = here()
    _registry()
    from pipelines.collect import collect, find_surplus

    found = find_surplus(place, keep)
    nothing = not found.versions and not found.folders
    if dry_run or nothing:
        _show_surplus(found, "would go", place, as_json)
        return
    if not yes:
        _list_surplus(found, "would go", place, Console(stderr=True) if as_json else console)
        typer.confirm("remove all this?", abort=True, err=True)
    _show_surplus(collect(place, keep), "removed", place, as_json)


def _registry(stack: str | None = None, elsewhere: str = "") -> str:
    """Where versions are registered; ConfigError where there is none, which ends with what may be given `elsewhere`."""
    place = here()
    place.prepare()
    uri = registry_uri(place, stack)
    if uri is None:
        raise ConfigError(f"nothing is registered in {place.root} yet; `run` registers what it made{elsewhere}")
    return uri


def _show_terms(version: "Version") -> None:
    for subject, terms in version.licences.items():
        console.print(f"licence of the {subject}: {terms}", soft_wrap=True, markup=False)
    console.print(f"verdict: {version.verdict}: {version.reason}", soft_wrap=True, markup=False)
    console.print(f"gate: {version.gate_summary}", soft_wrap=True, markup=False)


def _show_move(move: "Move", as_json: bool) -> None:
    if as_json:
        typer.echo(move.model_dump_json())
    else:
        console.print(
            f"{move.model}: version {move.after} is champion, in place of {move.before or 'none'}", highlight=False
        )


def _show_surplus(surplus: "Surplus", what: str, place: Place, as_json: bool) -> None:
    """Versions and folders with their bytes."""
    if as_json:
        versions = [version.reference for version in surplus.versions]
        folders = [{"path": str(folder.path), "bytes": folder.size} for folder in surplus.folders]
        typer.echo(json.dumps({"versions": versions, "folders": folders, "bytes": surplus.size}))
    else:
        _list_surplus(surplus, what, place, console)


def _list_surplus(surplus: "Surplus", what: str, place: Place, to: Console) -> None:
    """The same for people."""
    for version in surplus.versions:
        to.print(f"{what}: version {version.reference} ({version.run_name})", soft_wrap=True, highlight=False)
    for folder in surplus.folders:
        shown = _below(folder.path, place.root)
        to.print(f"{what}: {folder.size:>14,} bytes  {shown}", soft_wrap=True, highlight=False)
    to.print(f"{what}: {len(surplus.versions)} versions, {surplus.size:,} bytes", highlight=False)


def _below(path: Path, root: Path) -> Path:
    return path.relative_to(root.parent) if path.is_relative_to(root.parent) else path
