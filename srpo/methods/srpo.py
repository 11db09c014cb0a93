"""SRPO (arXiv:2509.06942): Direct-Align in two branches, scored by the relative preference."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from srpo.align import SigmaGrid
from srpo.config import RunConfig
from srpo.control_words import ControlWords, control_words
from srpo.criteria import Criterion
from srpo.methods.base import Autocast, Method
from srpo.models import TextToImage
from srpo.objective import Asked, Scores, objective, passes
from srpo.preference import Branch, make_branches
from srpo.rollout import Rollout


class Srpo(Method):
    """The relative preference of every reward, each with its own words."""

    def __init__(
        self, config: RunConfig, model: TextToImage, criteria: Sequence[Criterion], autocast: Autocast
    ) -> None:
        super().__init__(config, model, criteria, autocast)
        self.positions = self.grid = SigmaGrid(config.align)
        self.words = [control_words(criterion.preference) for criterion in criteria]
        self.words_digest = self.words[0].digest

    def losses(self, rollout: Rollout, positions: Tensor, update: int) -> Iterator[tuple[Tensor, list[Scores]]]:
        """Each injection's branches, together or one by one."""
        align, (first, *others) = self.config.align, self.criteria
        for index, row in enumerate(positions):
            asked = [
                self._branches(*each, row, rollout, update) for each in zip(self.criteria, self.words, strict=True)
            ]
            for group in passes(range(len(align.branches)), align.together):
                branches, *own = ([every[i] for i in group] for every in asked)
                added = [Asked(criterion, theirs) for criterion, theirs in zip(others, own, strict=True)]
                with self.autocast():
                    loss, scores = objective(
                        self.model,
                        first.reward,
                        rollout,
                        branches,
                        len(align.branches),
                        align.guidance,
                        first.preference,
                        added,
                        injection=index,
                    )
                yield loss, scores

    def _branches(
        self, criterion: Criterion, words: ControlWords, row: Tensor, rollout: Rollout, update: int
    ) -> list[Branch]:
        """The branches of an injection with a reward's own texts and strengths."""
        return make_branches(self.config.align, criterion.preference, self.grid, row, rollout.prompts, update, words)
