"""A study becomes part of the report whose models it compared."""

from pathlib import Path

from srpo.errors import ConfigError
from srpo.evaluation.entries import load_entry
from srpo.evaluation.study.page import StudyKey
from srpo.evaluation.study.pairs import Side
from srpo.report.page import write_report
from srpo.report.schema import Report, Study, same_content


def add_to_report(study: Study, key: StudyKey, folder: Path, replace: bool = False) -> tuple[Study, Path]:
    """Write the study into the report in `folder`, under its labels, and the page anew; both as they are now there.

    ConfigError if the report is of other models, does not tell the two apart, or holds a study of another pair of them,
    or (unless `replace`) one with voters that this one lacks: what is merged takes the place of what was.
    """
    report = load_entry(str(folder), folder).report
    labels = {"reference": _label(report, key.reference), "candidate": _label(report, key.candidate)}
    if labels["reference"] == labels["candidate"]:
        raise ConfigError(
            f"{folder} does not tell {key.reference.name} and {key.candidate.name} apart: both are its "
            f"{labels['candidate']}; `compare` or `evaluate` the two, and give that report"
        )
    named, there = study.model_copy(update=labels), report.study
    if there and (there.reference, there.candidate) != (named.reference, named.candidate):
        raise ConfigError(
            f"{folder} holds the study of {there.candidate} against {there.reference}, and this one is of "
            f"{named.candidate} against {named.reference}; a report has room for one, so `compare` these two in another"
        )
    if there and not replace and (lost := there.voters - study.voters):
        of = "" if there.study in ("", study.study) else f" of another page ({there.study})"
        raise ConfigError(
            f"{folder} holds the votes of {there.num_voters} voters{of}, and these files lack {len(lost)} of them; "
            "merge all files of votes at once, or give --replace"
        )
    return named, write_report(report.model_copy(update={"study": named}), folder)


def _label(report: Report, side: Side) -> str:
    """What the report calls a model of the study: the same weights, the same name if several have them."""
    found = [model.label for model in report.models if same_content(model.content, side.content)]
    if not found:
        known = ", ".join(model.label for model in report.models)
        raise ConfigError(f"the study is about {side.name}, whose weights no model of the report has (it has {known})")
    return side.name if side.name in found else found[0]
