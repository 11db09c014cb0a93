"""Commands that draw: `generate`, and `words`, which measures control words on pictures."""

import contextlib
import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipelines.commands.common import (
    BaseOption,
    ConfigOption,
    JsonOption,
    ModelOption,
    RegistryOption,
    SetOption,
    console,
    load,
    refuse_demo_settings,
    registry_uri,
)
from pipelines.place import here
from srpo.errors import ConfigError
from srpo.sample_size import MIN_PROMPTS


def generate(
    model: ModelOption,
    prompts: Annotated[
        str, typer.Option(metavar="FILE_OR_TEXT", help="A file with one prompt per line, or one prompt.")
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for the pictures and a contact sheet, of at most 256 of them, evenly chosen.")
    ],
    base: BaseOption = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="For a folder: a run file with image size, steps, guidance (else 1024x1024, 50, the model's)."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Picture i (from 0) gets seed + i.")] = None,
    num_steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps.")] = None,
    guidance: Annotated[
        str | None, typer.Option(metavar="NUMBER|null", help="Guidance, as the model takes it; null for none.")
    ] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Pixels.")] = None,
    prefix: Annotated[str | None, typer.Option(help="Control word in front of each prompt; '' for none.")] = None,
    weights: Annotated[
        Literal["fp32", "bf16", "int8", "nf4"] | None,
        typer.Option(help="How weights are kept, if not as the model says: bf16 takes half of the memory of fp32."),
    ] = None,
    num_processes: Annotated[int | None, typer.Option(min=1, help="Processes; one per GPU if not given.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Draw again what is there already.")] = False,
    stack: RegistryOption = None,
) -> None:
    """Make one PNG per prompt; each says in its text fields which prompt, seed and model made it.

    What an earlier call has drawn with the same settings is kept.
    """
    settings = load([config], ()) if config else None
    asked = {"seed": seed, "num_steps": num_steps, "prefix": prefix}
    given: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
    if guidance is not None:
        given["guidance"] = _guidance(guidance)
    place = here()
    place.prepare(model, base or "", prompts)
    from srpo.export.card import find_licences
    from srpo.generate import read_texts
    from srpo.pictures import check_folder, write_pictures
    from srpo.reference import find_model

    texts = read_texts(prompts)
    check_folder(out)
    with console.status("finding the model"):
        files = find_model(model, settings, registry_uri(place, stack), base).drawn(height, width, weights)
    for licence in find_licences(files, None):
        typer.echo(licence, err=True)
    files = files.model_copy(update={"sampling": files.sampling.model_copy(update=given)})
    for path in write_pictures(files, texts, out, num_processes, overwrite):
        typer.echo(path)


def _guidance(text: str) -> float | None:
    """As a run file would say it."""
    if text == "null":
        return None
    with contextlib.suppress(ValueError):
        if 0 <= (guidance := float(text)) < math.inf:
            return guidance
    raise ConfigError(f"--guidance {text}: give a number from 0 on, or null for none")


def words(
    config: ConfigOption = None,
    set_: SetOption = None,
    words_: Annotated[
        str | None, typer.Option("--words", metavar="A,B", help="Wanted words instead of the run file's.")
    ] = None,
    against: Annotated[str | None, typer.Option(metavar="C,D", help="Unwanted words, likewise.")] = None,
    num_prompts: Annotated[int, typer.Option(min=MIN_PROMPTS, help="Held-out prompts to measure on.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Tell how well the reward knows control words: a word that it does not know does nothing in training.

    Known: pictures that show the word score higher with it than pictures that lack it (the interval of that share
    from 0.75 on); weak: above chance; unknown: not told apart. Shapes renders its style words truly; otherwise the
    model draws the pictures, as the evaluation would: one of each prompt, and one more for each word. Weights at hf://
    or s3:// are fetched beforehand: `run --config YOURS.yaml --until download`.
    """
    settings = load(config, tuple(set_ or ()))
    if not config:
        refuse_demo_settings(settings.model.source, settings.model.source)
    here().prepare(*settings.inputs)
    chosen = [text.split(",") if text else [] for text in (words_, against)]
    wanted, unwanted = chosen if any(chosen) else (settings.preference.positive, settings.preference.negative)
    names = [word.strip() for word in (*wanted, *unwanted)]
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(f"control words must be different and not blank, got {', '.join(map(repr, names))}")
    with contextlib.redirect_stdout(sys.stderr):  # what libraries say as they load is no part of the JSON
        from pipelines.summary import show_words
        from srpo.evaluation.progress import terminal_progress
        from srpo.evaluation.words import measure_words

        with terminal_progress() as progress:
            reports = measure_words(settings, names, num_prompts, progress)
    if as_json:
        typer.echo(json.dumps([report.model_dump() for report in reports], indent=1))
    else:
        show_words(console, reports, len(wanted))
