"""A ZenML alerter that keeps what it is told in memory."""

from typing import Any, ClassVar

from zenml.alerter.base_alerter import BaseAlerter, BaseAlerterConfig, BaseAlerterFlavor


class Listener(BaseAlerter):
    heard: ClassVar[list[str]] = []
    delivers: ClassVar[bool] = True

    def post(self, message: str, params: Any = None) -> bool:
        self.heard.append(message)
        return self.delivers


class ListenerFlavor(BaseAlerterFlavor):
    @property
    def name(self) -> str:
        return "listener"

    @property
    def config_class(self) -> type[BaseAlerterConfig]:
        return BaseAlerterConfig

    @property
    def implementation_class(self) -> type[Listener]:
        return Listener
