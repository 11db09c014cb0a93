"""Direct-Align without control words (arXiv:2509.06942, section 3.2): the plain reward at any noise level.

    loss = mean over the noise levels of mean(relu(margin - d * r(x0_hat, prompt)) or -d * r(x0_hat, prompt))

`d` falls towards the clean end of the grid (`discount_shift`), because late steps invite hacks; 1 without it. There is
no inversion branch: it would turn the gradient around and push away from the prompt.
"""

from collections.abc import Iterator

from torch import Tensor

from srpo.align import SigmaGrid, Step
from srpo.config import DirectAlignMethod
from srpo.methods.plain import Plain
from srpo.objective import StepScores, recover
from srpo.preference import discount
from srpo.rollout import Rollout


class DirectAlign(Plain):
    """The denoise branch alone, for the plain reward."""

    settings: DirectAlignMethod
    positions: SigmaGrid

    def _make_positions(self) -> SigmaGrid:
        return SigmaGrid(self.config.align)

    def losses(self, rollout: Rollout, positions: Tensor, update: int) -> Iterator[tuple[Tensor, list[StepScores]]]:
        """One noise level after the other."""
        for index, row in enumerate(positions):
            levels = self.positions.denoise(row)
            step = Step("direct_align", levels.sigma_from, levels.sigma_to)
            weight = discount(self.settings.discount_shift, levels.index, self.positions.num_levels)
            with self.autocast():
                images = recover(self.model, rollout, [step], self.config.align.guidance)
                loss, scores = self.loss(images, rollout, step, weight, injection=index)
            yield loss, scores
