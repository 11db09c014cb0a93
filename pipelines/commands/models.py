"""Commands for registered models: `export`."""

from typing import Annotated

import typer

from pipelines.commands.app import BaseOption, console
from pipelines.place import here
from srpo.errors import ConfigError

EXPORT_FORMS = ("transformer", "lora", "fp8", "folder")


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
    place.prepare(model, base or "", to)
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
        console.print(str(licence), soft_wrap=True)
    drawn = [image.prompt for image in report.images] if report else []
    texts = read_texts(prompts) if prompts else list(dict.fromkeys(drawn))[:2]
    with console.status("exporting"):
        export_model(files, to, form, licences, report, texts)  # type: ignore[arg-type]
    typer.echo(to)
