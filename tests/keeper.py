"""A ZenML orchestrator that keeps schedules in memory, to see what `pipelines.schedules` does with any of them."""

from typing import Any, ClassVar

from zenml.orchestrators import BaseOrchestrator, BaseOrchestratorConfig, BaseOrchestratorFlavor


class KeeperConfig(BaseOrchestratorConfig):
    @property
    def is_schedulable(self) -> bool:
        return True


class Keeper(BaseOrchestrator):
    kept: ClassVar[dict[str, bool]] = {}
    """Schedule -> whether it is active."""
    submitted: ClassVar[list[Any]] = []
    """Snapshots to be run at once."""
    refuses: ClassVar[bool] = False

    def submit_pipeline(self, snapshot: Any, *arguments: Any, **named: Any) -> None:
        if self.refuses:
            raise RuntimeError("the cluster is full")
        if snapshot.schedule:
            self.kept[snapshot.schedule.name] = True
        else:
            self.submitted.append(snapshot)

    def update_schedule(self, schedule: Any, update: Any) -> None:
        self.kept[schedule.name] = update.active

    def delete_schedule(self, schedule: Any) -> None:
        self.kept.pop(schedule.name, None)

    def get_orchestrator_run_id(self) -> str:
        return "none"


class KeeperFlavor(BaseOrchestratorFlavor):
    @property
    def name(self) -> str:
        return "keeper"

    @property
    def config_class(self) -> type[KeeperConfig]:
        return KeeperConfig

    @property
    def implementation_class(self) -> type[Keeper]:
        return Keeper
