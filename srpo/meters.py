"""What any picture looks like, measured from its pixels without a model: damage shows here first.

Every meter takes images (batch, 3, height, width) in [0, 1] and returns one number per image, (batch,).
"""

from collections.abc import Callable

from torch import Tensor

LUMA = (0.2126, 0.7152, 0.0722)
"""Weights of red, green and blue in luma (ITU-R BT.709)."""
COARSE = 4  # pixels; longer than a blurred edge is wide
SMALLEST_CHANGE = 1e-6  # keeps the sharpness of a plain area finite


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


METERS: dict[str, Callable[[Tensor], Tensor]] = {
    "luminance": luminance,
    "saturation": saturation,
    "sharpness": sharpness,
    "clipped": clipped,
}
"""Name of the metric -> its meter."""
