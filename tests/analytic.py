"""A world of formulas in float64: a velocity of three parameters, images by a sigmoid, rewards linear in the pixels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from srpo.rollout import Rollout

PROMPTS = ["a", "abc"]
SHAPE = (3, 4, 4)


class Analytic(nn.Module):
    """`velocity = tanh(x W) (1 + sigma) + x / 2`, `decode = sigmoid`."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 4, generator=generator).double())
        self.transformer = self

    def velocity(self, x: Tensor, sigma: Tensor, embeddings: object, guidance: float | None) -> Tensor:
        return torch.tanh(x @ self.weight) * (1 + sigma.to(x).reshape(-1, 1, 1, 1)) + x / 2

    def decode(self, x0: Tensor) -> Tensor:
        return torch.sigmoid(x0)


class Linear:
    """The pixels weighed by a pattern that depends on the length of the text."""

    def __init__(self, seed: int, factor: float = 1.0) -> None:
        self.pattern = factor * torch.randn(*SHAPE, generator=torch.Generator().manual_seed(seed)).double()

    def __call__(self, images: Tensor, *texts: Sequence[str]) -> tuple[Tensor, ...]:
        return tuple(self._score(images, torch.tensor([float(len(text)) for text in group])) for group in texts)

    def _score(self, images: Tensor, lengths: Tensor) -> Tensor:
        return (images * torch.sin(self.pattern + lengths.reshape(-1, 1, 1, 1))).mean((1, 2, 3))


def noise() -> Tensor:
    return torch.randn(len(PROMPTS), *SHAPE, generator=torch.Generator().manual_seed(1)).double()


def unroll(model: Analytic, x: Tensor, sigmas: Tensor) -> Tensor:
    """Euler's method, written out."""
    for sigma, after in zip(sigmas[:-1].double(), sigmas[1:].double(), strict=True):
        x = x + (after - sigma) * model.velocity(x, sigma.expand(len(x)), None, None)
    return x


def rollout_of(x0: Tensor, start: Tensor) -> Rollout:
    return Rollout(x0, start, {}, PROMPTS)
