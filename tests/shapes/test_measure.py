"""The measures against pictures whose values are known, and the oracle against fresh renders."""

import pytest
import torch
from safetensors.torch import load_file

from srpo.meters import luminance, saturation, sharpness
from srpo.shapes.build.oracle import distort
from srpo.shapes.measure import ORACLE_PATH, content_correct, content_labels, load_oracle, recognise, texture
from srpo.shapes.render import (
    CONTENTS,
    HELD_OUT,
    SEEN,
    SIZE,
    STYLES,
    blur,
    pure_colour,
    render,
    styled,
    texture_pattern,
)


def flat(red: float, green: float, blue: float) -> torch.Tensor:
    return torch.tensor([red, green, blue], dtype=torch.float32).reshape(1, 3, 1, 1).expand(1, 3, SIZE, SIZE)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_luminance_and_saturation_of_plain_colours() -> None:
    assert float(luminance(flat(0.3, 0.3, 0.3))) == pytest.approx(0.3)
    assert float(luminance(flat(0, 1, 0))) == pytest.approx(0.7152)
    assert float(saturation(flat(0.3, 0.3, 0.3))) == 0
    assert float(saturation(flat(0.9, 0.2, 0.5))) == pytest.approx(0.7)
    assert float(saturation(pure_colour(torch.tensor([17.0])).expand(1, 3, 4, 4))) == pytest.approx(1)


def test_luminance_is_linear_and_saturation_ignores_brightness() -> None:
    image = 0.2 + 0.5 * torch.rand(1, 3, SIZE, SIZE, generator=generator(0))
    torch.testing.assert_close(luminance(image + 0.1), luminance(image) + 0.1)
    torch.testing.assert_close(saturation(image + 0.1), saturation(image))


@pytest.mark.parametrize("phase", [(0, 0), (1, 3), (4, 0), (2, 7)])
@pytest.mark.parametrize("amplitude", [0.0, 0.05, 0.2])
def test_texture_is_the_amplitude_of_the_dots_whatever_their_phase(phase, amplitude) -> None:
    dots = texture_pattern().roll(phase, (0, 1))
    assert float(texture(0.5 + amplitude * dots.expand(1, 3, -1, -1))) == pytest.approx(amplitude, abs=1e-6)


def test_texture_ignores_what_is_not_dots() -> None:
    axis = torch.arange(SIZE) / 8
    stripes = (0.5 + 0.2 * torch.cos(2 * torch.pi * axis)).expand(1, 3, SIZE, SIZE)
    assert float(texture(stripes)) == pytest.approx(0, abs=1e-6)


def test_sharpness_of_edges_and_ramps() -> None:
    edge = (torch.arange(SIZE) >= SIZE // 2).float().expand(1, 3, SIZE, SIZE)
    ramp = torch.linspace(0, 1, SIZE).expand(1, 3, SIZE, SIZE)
    assert float(sharpness(edge)) == pytest.approx(0.5, abs=0.03)
    assert float(sharpness(ramp)) == pytest.approx(0.25, abs=1e-4)
    blurred = [float(sharpness(blur(edge, torch.tensor([sigma])))) for sigma in (0.0, 0.5, 1.0, 2.0)]
    assert blurred == sorted(blurred, reverse=True)


def test_sharpness_ignores_contrast_and_stands_a_constant_picture() -> None:
    image = render(SEEN[:4], [None] * 4, generator(1))
    torch.testing.assert_close(sharpness(0.3 * image + 0.2), sharpness(image))
    assert float(sharpness(flat(0.5, 0.5, 0.5))) == 0


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (luminance, "Dark", "Bright"),
        (saturation, "Pale", "Vivid"),
        (texture, "Flat", "Textured"),
        (sharpness, "Blurry", "Sharp"),
    ],
)
def test_the_measures_tell_the_style_words_apart(function, low, high) -> None:
    below, above = (function(render(CONTENTS, [word] * 150, generator(2))) for word in (low, high))
    threshold = (below.mean() + above.mean()) / 2
    assert float(((below < threshold).float().mean() + (above > threshold).float().mean()) / 2) > 0.97


def test_labels_ignore_the_style_word() -> None:
    captions = [content.caption for content in CONTENTS]
    assert torch.equal(content_labels(captions), content_labels([styled("Dark", caption) for caption in captions]))
    assert len(content_labels(captions).unique(dim=0)) == 150


@pytest.mark.parametrize("contents", [SEEN, HELD_OUT])
def test_the_oracle_reads_fresh_pictures(contents) -> None:
    chosen = list(contents) * (240 // len(contents))
    images = render(chosen, [None] * 240, generator(5))
    assert float(content_correct(images, [content.caption for content in chosen]).mean()) > 0.985


@pytest.mark.parametrize("word", STYLES)
def test_the_oracle_reads_every_style(word) -> None:
    images = render(CONTENTS, [word] * 150, generator(6))
    assert float(content_correct(images, [content.caption for content in CONTENTS]).mean()) > 0.97


def test_the_oracle_reads_distorted_pictures() -> None:
    images = distort(render(CONTENTS * 2, [None] * 300, generator(7)), generator(8))
    assert float(content_correct(images, [content.caption for content in CONTENTS * 2]).mean()) > 0.9


def test_a_picture_of_another_content_is_wrong() -> None:
    chosen = list(CONTENTS)
    images = render(chosen, [None] * 150, generator(9))
    assert float(content_correct(images, [c.caption for c in chosen[1:] + chosen[:1]]).mean()) < 0.02


def test_noise_is_no_content() -> None:
    noise = torch.rand(300, 3, SIZE, SIZE, generator=generator(10))
    assert float(content_correct(noise, [content.caption for content in CONTENTS * 2]).mean()) < 0.05


def test_the_oracle_is_frozen_small_and_independent_of_the_batch() -> None:
    assert not any(parameter.requires_grad for parameter in load_oracle().parameters())
    assert sum(tensor.nbytes for tensor in load_file(ORACLE_PATH).values()) < 500_000
    images = render(CONTENTS[:40], [None] * 40, generator(11))
    assert torch.equal(recognise(images)[7:8], recognise(images[7:8]))


def test_as_many_captions_as_images() -> None:
    with pytest.raises(ValueError, match="2 images but 1 captions"):
        content_correct(torch.rand(2, 3, SIZE, SIZE), [SEEN[0].caption])
