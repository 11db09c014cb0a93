"""What any picture looks like, measured from its pixels without a model: damage shows here first.

Every meter takes images (batch, 3, height, width) in [0, 1] and returns one number per image, (batch,).
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

LUMA = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue in luma (ITU-R BT.709)."""
COARSE = 4  # pixels; longer than a blurred edge is wide
SMALLEST_CHANGE = 1e-6  # keeps the sharpness of a plain area finite
SHORTEST_PERIOD = 3  # pixels; at 2 a pattern has no odd harmonic below the highest frequency
SHORTEST_GRID = 4  # periods; fewer leave no frequencies between a grid's and those beside it
FAINTEST = 1e-6
"""Power of luma that counts as nothing: far below that of 8-bit rounding (2.6e-6 / 3 per pixel)."""


def luma(images: Tensor) -> Tensor:
    """`0.2126 R + 0.7152 G + 0.0722 B`: (batch, 1, height, width)."""
    return (images * images.new_tensor(LUMA).reshape(3, 1, 1)).sum(1, keepdim=True)


def luminance(images: Tensor) -> Tensor:
    """Mean luma."""
    return luma(images).mean((1, 2, 3))


def saturation(images: Tensor) -> Tensor:
    """Mean over the pixels of `max - min` over RGB (the chroma of HSV), which a change of brightness leaves alone."""
    return (images.amax(1) - images.amin(1)).mean((1, 2))


def sharpness(images: Tensor) -> Tensor:
    """Root-mean-square change over 1 pixel relative to that over 4, whatever the contrast.

    1/2 for crisp edges between plain areas, 1/4 for smooth ramps, towards 1 for noise.
    """
    return _change(images, 1) / _change(images, COARSE).clamp(min=SMALLEST_CHANGE)


def _change(images: Tensor, lag: int) -> Tensor:
    """Root-mean-square difference between pixels `lag` apart, across and down."""
    across = (images[..., lag:] - images[..., :-lag]).square().mean((1, 2, 3))
    down = (images[..., lag:, :] - images[..., :-lag, :]).square().mean((1, 2, 3))
    return (across + down).sqrt()


def clipped(images: Tensor) -> Tensor:
    """Share of the pixel values that are exactly 0 or 1, where the decoder's output was cut off."""
    return ((images <= 0) | (images >= 1)).float().mean((1, 2, 3))


def colourfulness(images: Tensor) -> Tensor:
    """Hasler and Suesstrunk (2003): `sqrt(s_rg^2 + s_yb^2) + 0.3 sqrt(m_rg^2 + m_yb^2)`, of pixels in [0, 1].

    `s` and `m` are standard deviation and mean over the pixels of `rg = R - G` and `yb = (R + G) / 2 - B`. The paper's
    pixels run to 255: there 33 (0.13 here) is moderately, 82 (0.32) highly colourful.
    """
    red, green, blue = images.flatten(2).unbind(1)
    opponents = torch.stack([red - green, (red + green) / 2 - blue])
    spread, mean = opponents.var(-1, correction=0).sum(0).sqrt(), opponents.mean(-1).square().sum(0).sqrt()
    return spread + 0.3 * mean


def high_frequency(images: Tensor) -> Tensor:
    """Share of the variance of luma that waves shorter than 4 pixels carry, in any direction; 0 for a plain image.

    Of the power spectrum under a Hann window, without which the jump from the last row to the first would count.
    """
    brightness = luma(images)[:, 0]
    height, width = brightness.shape[-2:]
    window = torch.outer(*(torch.hann_window(size, device=images.device) for size in (height, width)))
    centred = brightness - (brightness * window).sum((1, 2), keepdim=True) / window.sum()
    power = torch.fft.fft2(centred * window).abs().square()
    rows, columns = (torch.fft.fftfreq(size, device=images.device) for size in (height, width))
    short = torch.hypot(rows[:, None], columns[None]) > 1 / COARSE
    return (power * short).sum((1, 2)) / power.sum((1, 2)).clamp(min=SMALLEST_CHANGE)


def grid(images: Tensor, period: int) -> Tensor:
    """How far a pattern that repeats every `period` pixels, across or down, stands out of the spectrum; 0 for none.

    Mean over both axes and the odd harmonics k of `log2 P(k/p) - (log2 P((k - 1/2)/p) + log2 P((k + 1/2)/p)) / 2`, P:
    power of luma at a frequency, averaged over the lines. A falling spectrum gives about 0; a pattern of half the
    period has no odd harmonics, one of twice the period is as strong on both sides: neither counts. The VAE and the
    patches of a model draw such grids where they fail. ValueError for images shorter than four periods.
    """
    brightness = luma(images)[:, 0]
    if min(brightness.shape[-2:]) < SHORTEST_GRID * period:
        raise ValueError(
            f"a grid of {period} px shows from {SHORTEST_GRID * period} px on, got {brightness.shape[-2:]}"
        )
    return (_peaks(brightness, period) + _peaks(brightness.mT, period)).mean(-1) / 2


def _peaks(lines: Tensor, period: int) -> Tensor:
    """`grid`'s logarithms along lines (batch, lines, length): (batch, harmonics)."""
    half = lines.shape[-1] // (2 * period)  # bins from one multiple of 1 / (2 period) to the next
    lines = lines[..., : 2 * period * half]
    waves = torch.fft.rfft(lines - lines.mean(-1, keepdim=True), norm="ortho")
    logarithm = (waves.abs().square().mean(1) + FAINTEST).log2()
    odd = 2 * half * torch.arange(1, (period + 1) // 2, 2, device=lines.device)
    return logarithm[:, odd] - (logarithm[:, odd - half] + logarithm[:, odd + half]) / 2


Meter = Callable[[Tensor], Tensor]
METERS: dict[str, Meter] = {
    "luminance": luminance,
    "saturation": saturation,
    "sharpness": sharpness,
    "clipped": clipped,
    "colourfulness": colourfulness,
    "high_frequency": high_frequency,
}
"""Name of the metric -> its meter."""


def meters(grid_periods: Sequence[int]) -> dict[str, Meter]:
    """All meters by the name of their metric: `METERS`, and `grid/<period>` for each period in pixels."""
    return METERS | {f"grid/{period}": partial(grid, period=period) for period in grid_periods}
