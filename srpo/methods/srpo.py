"""SRPO (arXiv:2509.06942): Direct-Align in two branches, scored by the relative preference."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from srpo.align import SigmaGrid
from srpo.config import RunConfig
from srpo.control_words import control_words
from srpo.criteria import Criterion
from srpo.methods.base import Autocast, Method
from srpo.models import TextToImage
from srpo.objective import Asked, StepScores, objective, passes
from srpo.preference import make_branches
from srpo.rollout import Rollout


class Srpo(Method):
    """The relative preference of every reward, each with its own words."""

    positions: SigmaGrid

    def __init__(
        self, config: RunConfig, model: TextToImage, criteria: Sequence[Criterion], autocast: Autocast
    ) -> None:
        super().__init__(config, model, criteria, autocast)
        self.words = [control_words(criterion.preference) for criterion in criteria]
        self.words_digest = self.words[0].digest

    def _make_positions(self) -> SigmaGrid:
        return SigmaGrid(self.config.align)

    def losses(self, rollout: Rollout, positions: Tensor, update: int) -> Iterator[tuple[Tensor, list[StepScores]]]:
        """Each injection's branches, together or one by one."""
        align = self.config.align
        for index, row in enumerate(positions):
            made = [
                make_branches(align, criterion.preference, words, self.positions, row, rollout.prompts, update)
                for criterion, words in zip(self.criteria, self.words, strict=True)
            ]
            for group in passes(range(len(align.branches)), align.together):
                asked = [
                    Asked(criterion, [branches[i] for i in group])
                    for criterion, branches in zip(self.criteria, made, strict=True)
                ]
                with self.autocast():
                    loss, scores = objective(self.model, rollout, asked, len(align.branches), align.guidance, index)
                yield loss, scores
