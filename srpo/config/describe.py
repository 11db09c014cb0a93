"""Every setting of a run, read off the models that check it: its dotted name, its default, what it does."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from srpo.config.run import RunConfig


class Setting(NamedTuple):
    """One key of a run file; `[]` in its name stands for an entry of a list, `NAME` for a name of the user's own."""

    name: str
    default: Any
    """`...` where there is none."""
    choices: tuple[str, ...]
    """What it has to be one of; empty where that is no short list."""
    says: str
    """What it does; of a section, what the section is about."""
    is_section: bool


def describe(section: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[Setting]:
    """All settings below a section, each section before what is in it; of a union's members each name once."""
    seen = set[str]()
    for key, field in section.model_fields.items():
        name = f"{prefix}{field.alias or key}"
        inner = list(_sections(field.annotation))
        own = any(marker == "" for marker, _ in inner)
        yield Setting(name, _default(field), tuple(_choices(field.annotation)), _sentence(field), own)
        for marker, model in inner:
            for setting in describe(model, f"{name}{marker}."):
                if setting.name not in seen:
                    seen.add(setting.name)
                    yield setting


def _sections(annotation: Any, marker: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """The models inside a field's type, each with what stands between its keys and the field's."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield marker, annotation
        return
    origin = get_origin(annotation)
    kind = origin if isinstance(origin, type) else object
    if issubclass(kind, Mapping):
        marker += ".NAME"
    elif issubclass(kind, tuple | list):
        marker += "[]"
    for argument in get_args(annotation):
        yield from _sections(argument, marker)


def _choices(annotation: Any) -> Iterator[str]:
    """Strings that a field's type names, where it names more than one."""
    if get_origin(annotation) is Literal:
        names = [value for value in get_args(annotation) if isinstance(value, str)]
        yield from names if len(names) > 1 else ()
        return
    for argument in get_args(annotation):
        yield from _choices(argument)


def _default(field: FieldInfo) -> Any:
    return ... if field.is_required() else field.get_default(call_default_factory=True, validated_data={})


def _sentence(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())
