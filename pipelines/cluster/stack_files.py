"""ZenML stacks as data: `infra/stacks/NAME.yaml`, completed from the environment, registered or brought up to date.

`${NAME}` in a value is an environment variable of this site; what ZenML calls a secret has to be a reference to one of
its secrets, `{{NAME.KEY}}`. Everything is checked before the first component is touched.
"""

import os
import re
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator
from zenml.client import Client
from zenml.enums import StackComponentType
from zenml.stack.flavor import Flavor
from zenml.stack.utils import validate_stack_component_config
from zenml.utils.secret_utils import is_secret_field, is_secret_reference, parse_secret_reference

from pipelines import stacks
from pipelines.place import STACKS, ZENML
from srpo.errors import ConfigError
from srpo.strict import Strict

VARIABLE = re.compile(r"\$\{(\w+)\}")


class Component(Strict):
    """One component of a stack."""

    flavor: str
    configuration: dict[str, Any] = Field(default_factory=dict)
    """The flavor's own settings."""


class StackFile(Strict):
    """A whole stack; the components carry its name."""

    name: str
    orchestrator: Component
    artifact_store: Component
    experiment_tracker: Component
    model_registry: Component
    container_registry: Component | None = None
    """Where the image of the steps lies; ZenML wants it for steps in pods."""
    step_operator: Component | None = None
    """Starts several pods together, for training over nodes; ZenML wants it to go with an image builder."""
    image_builder: Component | None = None

    @model_validator(mode="after")
    def pods_have_an_image(self) -> Self:
        """Only steps on this machine need none."""
        if self.container_registry is None and self.orchestrator.flavor != "local":
            raise ValueError(f"orchestrator {self.orchestrator.flavor} needs a container_registry")
        return self

    @property
    def components(self) -> dict[StackComponentType, Component]:
        """Components by ZenML's kinds."""
        return {StackComponentType(kind): value for kind, value in self if isinstance(value, Component)}


def stack_names() -> list[str]:
    """Stacks that there are files for."""
    return sorted(path.stem for path in STACKS.glob("*.yaml"))


def read_stack(name: str) -> StackFile:
    """A stack as its file describes it, variables unfilled. Raises ConfigError."""
    if name not in stack_names():
        raise ConfigError(f"no stack {name!r} in {STACKS}; choose from {', '.join(stack_names())}")
    return parse_stack((STACKS / f"{name}.yaml").read_text(encoding="utf-8"), name)


def parse_stack(text: str, name: str) -> StackFile:
    """The text of a stack file, as `read_stack`."""
    try:
        stack = StackFile.model_validate(yaml.safe_load(text))
    except (yaml.YAMLError, ValidationError) as error:
        raise ConfigError(f"stack {name}: {error}") from None
    if stack.name == stacks.NAME:
        raise ConfigError(f"stack {name}: the name {stacks.NAME} is that of the stack that `run` makes; choose another")
    return stack


def fill(stack: StackFile) -> StackFile:
    """The stack with its environment variables put in. Raises ConfigError that names all that are missing."""
    text = stack.model_dump_json()
    if missing := sorted({name for name in VARIABLE.findall(text) if not os.environ.get(name)}):
        raise ConfigError(
            f"stack {stack.name} needs the environment variables {', '.join(missing)}; infra/README.md (Stacks) says "
            "what they hold"
        )
    return StackFile.model_validate(_filled(stack.model_dump()))


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(inner) for inner in value]
    return VARIABLE.sub(lambda match: os.environ[match[1]], value) if isinstance(value, str) else value


def validate(client: Client, stack: StackFile) -> dict[StackComponentType, dict[str, Any]]:
    """Settings of every component, as ZenML will store them. Raises ConfigError; nothing is changed."""
    valid = {}
    for kind, component in stack.components.items():
        where = f"{kind} of stack {stack.name}"
        try:
            flavor = client.get_flavor_by_name_and_type(component.flavor, kind)
        except KeyError:
            raise ConfigError(f"{where}: ZenML has no flavor {component.flavor!r}") from None
        resolve_secrets(client, component)
        try:
            _refuse_plain_secrets(Flavor.from_model(flavor).config_class, component, where)
            settings = validate_stack_component_config(component.configuration, flavor, kind)
        except ImportError as error:
            raise ConfigError(
                f"{where}: {error}; install what clusters need: "
                "python -m pip install --constraint constraints.txt --editable '.[cluster]'"
            ) from None
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
        assert settings is not None, "only custom flavors may be unknown"
        valid[kind] = settings.model_dump(mode="json", exclude_unset=True)
    return valid


def _refuse_plain_secrets(config_class: Any, component: Component, where: str) -> None:
    for key, value in component.configuration.items():
        field = config_class.model_fields.get(key)
        if field and is_secret_field(field) and not is_secret_reference(value):
            raise ConfigError(
                f"{where}: {key} is written in clear; make a secret ({ZENML} secret create NAME --interactive) "
                "and write {{NAME.KEY}}"
            )


def resolve_secrets(client: Client, component: Component) -> dict[str, Any]:
    """A component's settings with secrets in place of references. Raises ConfigError that names a missing one."""
    resolved = dict(component.configuration)
    for key, value in component.configuration.items():
        if is_secret_reference(value):
            name, entry = parse_secret_reference(value)
            try:
                secret = client.get_secret(name, allow_partial_name_match=False, allow_partial_id_match=False)
                resolved[key] = secret.secret_values[entry]
            except KeyError:
                raise ConfigError(
                    f"ZenML has no secret {name} with an entry {entry!r}; make it: "
                    f"{ZENML} secret create {name} --interactive (`update` instead of `create` if it is there)"
                ) from None
    return resolved


def register(client: Client, stack: StackFile) -> dict[str, str]:
    """Make the stack in ZenML what the file says; what was done, per component: created, updated or unchanged."""
    valid = validate(client, stack)
    done = {str(kind): _register_component(client, stack, kind, settings) for kind, settings in valid.items()}
    parts = dict.fromkeys(valid, stack.name)
    if client.list_stacks(name=stack.name).total == 0:
        client.create_stack(stack.name, parts)
    else:
        client.update_stack(stack.name, component_updates=parts)
    return done


def _register_component(client: Client, stack: StackFile, kind: StackComponentType, settings: dict[str, Any]) -> str:
    flavor = stack.components[kind].flavor
    found = client.list_stack_components(name=stack.name, type=kind, hydrate=True).items
    if not found:
        client.create_stack_component(stack.name, flavor, kind, settings)
        return "created"
    if found[0].flavor_name != flavor:
        raise ConfigError(
            f"the {kind} {stack.name} in ZenML has the flavor {found[0].flavor_name}, the file says {flavor}; "
            f"delete the stack: {ZENML} stack delete {stack.name} --recursive"
        )
    if found[0].configuration == settings:
        return "unchanged"
    gone = dict.fromkeys(found[0].configuration.keys() - settings.keys())
    client.update_stack_component(stack.name, kind, configuration=settings | gone)
    return "updated"
