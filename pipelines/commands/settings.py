"""The command that shows what a run file may hold."""

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding

from pipelines.commands.common import ConfigOption, SetOption, console, load
from srpo.errors import ConfigError

if TYPE_CHECKING:
    from srpo.config import RunConfig


def settings(
    word: Annotated[
        str | None, typer.Argument(help="Only those with a part of the name that begins so: train, k_, monitor.bounds.")
    ] = None,
    config: ConfigOption = None,
    set_: SetOption = None,
) -> None:
    """Explain every setting of a run file, with its default, or with its value in the run files given."""
    from srpo.config.describe import describe

    given = load(config, tuple(set_ or ())) if config or set_ else None
    begins = re.compile(rf"(^|[._]){re.escape(word or '')}")
    found = [setting for setting in describe() if begins.search(setting.name)]
    if not found:
        raise ConfigError(f"no setting's name holds {word!r}; `settings` lists all of them")
    for setting in found:
        held = _value(given, setting.name, setting.default)
        value = "" if setting.is_section and held is not None else _shown(held)
        console.print(f"[bold cyan]{escape(setting.name)}[/]  {escape(value)}", highlight=False, soft_wrap=True)
        choices = f" One of: {', '.join(setting.choices)}." if setting.choices else ""
        console.print(Padding(escape(setting.says + choices), (0, 0, 0, 4), expand=False), highlight=False)


def _value(given: "RunConfig | None", name: str, default: Any) -> Any:
    """The value of the run; the default of what it holds any number of, or not at all."""
    value: Any = given
    for key in name.split("."):
        fields = getattr(type(value), "model_fields", {})
        attribute = next((each for each, field in fields.items() if (field.alias or each) == key), None)
        if attribute is None:
            return default
        value = getattr(value, attribute)
    return value


def _shown(value: Any) -> str:
    """As YAML would have it, on one line."""
    import yaml
    from pydantic import TypeAdapter

    if value is ...:
        return "(needed)"
    plain = TypeAdapter(Any).dump_python(value, mode="json", exclude_none=True)
    return yaml.safe_dump(plain, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
