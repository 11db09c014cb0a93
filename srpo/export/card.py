"""The model card: what the model is, what it was made from and how, what was measured, and under which licences."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from srpo.export.weights import Fp8Error
from srpo.generate import ModelFiles
from srpo.hub import fetched, is_remote
from srpo.hub.listing import CARD
from srpo.models import find_family
from srpo.models.weights import adapter_file
from srpo.report.schema import Report
from srpo.strict import Strict

UNKNOWN = "not stated in its files; ask where it comes from"


class Licence(Strict):
    """What is known of the terms of something the model is made from."""

    subject: str
    """base model, adapter, transformer, reward, or reward_<name>."""
    source: str
    terms: str

    def __str__(self) -> str:
        """One line for the terminal."""
        return f"licence of the {self.subject} ({self.source}): {self.terms}"


def find_licences(files: ModelFiles, report: Report | None) -> list[Licence]:
    """Of the base, of what was given with it, and of the rewards if the run is known, as their folders state them."""
    found = [Licence(subject="base model", source=files.model.source, terms=_terms(files.model.source, files.base))]
    if files.transformer is not None and not files.reference.startswith("models:/"):
        subject = "adapter" if adapter_file(files.transformer) else "transformer"
        found.append(Licence(subject=subject, source=files.reference, terms=_terms(files.reference, files.transformer)))
    if report is not None:
        sources = report.provenance.sources  # the config may be of another version
        rewards = {name: source for name, source in sources.items() if name.split("_")[0] == "reward"}
        found += [
            Licence(subject=name, source=source, terms=_terms(source, Path(source).expanduser()))
            for name, source in rewards.items()
        ]
    return found


def render_card(
    files: ModelFiles,
    form: str,
    licences: Sequence[Licence],
    report: Report | None,
    prompts: Sequence[str],
    error: Fp8Error | None,
) -> str:
    """The card as Markdown, with the front matter that model hubs read."""
    environment = Environment(
        loader=PackageLoader("srpo.export", "."),
        autoescape=False,  # Markdown, of the user's own text
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    recipe = yaml.safe_dump(report.provenance.config, sort_keys=False, allow_unicode=True) if report else ""
    pipeline = find_family(files.model.family).pipeline.__name__
    return environment.get_template("card.md.jinja").render(
        pipeline=pipeline,
        files=files,
        form=form,
        licences=licences,
        report=report,
        prompts=prompts,
        error=error,
        recipe=recipe,
    )


def _terms(source: str, path: Path) -> str:
    if is_remote(source) and (listing := fetched(source)) and listing.licence:
        return listing.licence
    if source.startswith("builtin:"):
        return "Apache-2.0, as srpo itself"
    folder = path if path.is_dir() else path.parent
    stated = _front_matter(folder / CARD)
    names = [str(stated[key]) for key in ("license_name", "license", "license_link") if stated.get(key)]
    names += sorted(file.name for file in folder.glob("LICENSE*"))
    return ", ".join(names) or UNKNOWN


def _front_matter(readme: Path) -> dict[str, Any]:
    """The YAML between the first two lines of dashes of a card; empty where there is none."""
    if not readme.is_file():
        return {}
    found = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        stated = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError:
        return {}
    return stated if isinstance(stated, dict) else {}
