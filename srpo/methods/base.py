"""What a method is to the loop: how far to roll out, and the losses that go backward one after the other."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from torch import Tensor

from srpo.config import RunConfig
from srpo.criteria import Criterion
from srpo.draws import Positions
from srpo.flow import shifted_sigmas
from srpo.models import TextToImage
from srpo.objective import StepScores
from srpo.rollout import Rollout

Autocast = Callable[[], AbstractContextManager[object]]


class Method(ABC):
    """One way to train; its settings are `config.method`."""

    positions: Positions
    """Draws where the steps with gradient happen."""
    words_digest: str | None = None
    """sha256 of the words file that training reads; a run goes on only with the same."""

    def __init__(
        self, config: RunConfig, model: TextToImage, criteria: Sequence[Criterion], autocast: Autocast
    ) -> None:
        self.config = config
        self.model = model
        self.criteria = criteria
        self.autocast = autocast
        self.schedule = shifted_sigmas(config.rollout.num_steps, config.rollout.shift)
        self.positions = self._make_positions()

    @abstractmethod
    def _make_positions(self) -> Positions:
        """What draws them, from the settings."""

    @property
    def rollout_steps(self) -> float:
        """Forwards without gradient for each rollout, in the mean."""
        return len(self.schedule) - 1

    def sigmas(self, positions: Tensor) -> Tensor:
        """Descending schedule of a rollout, to where it stops; `positions` (num_injections, batch) as drawn."""
        return self.schedule

    @abstractmethod
    def losses(self, rollout: Rollout, positions: Tensor, update: int) -> Iterator[tuple[Tensor, list[StepScores]]]:
        """The loss of each forward pass with gradient, and what it measured.

        Those of one row of `positions` (num_injections, batch) add up to the loss of its injection, a mean over the
        batch. The caller goes backward from each before it asks for the next; `update` counts from 1.
        """
