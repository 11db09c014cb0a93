"""ImageReward against timm's vision transformer, which BLIP's is made from, and its text encoder written out here."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import layer_norm, linear, normalize, scaled_dot_product_attention
from torchvision.transforms import v2
from torchvision.transforms.functional import to_tensor

from srpo.errors import ConfigError
from srpo.rewards.image_reward import MEAN, STD, check, load

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "circle", "on", "cat", "##s"]
TEXTS = ["A red circle on a blue zebra", "cats"]
IDS = [[2, 5, 6, 8, 9, 5, 7, 1, 3], [2, 10, 11, 3]]
WIDTH, HIDDEN, LAYERS = 64, 128, 2  # one head of 64 in the vision tower, two in the text encoder
V, T = "blip.visual_encoder.", "blip.text_encoder."


def vision_tower() -> VisionTransformer:
    return VisionTransformer(img_size=32, patch_size=16, embed_dim=WIDTH, depth=2, num_heads=1, num_classes=0).eval()


def text_shapes() -> dict[str, tuple[int, ...]]:
    """BLIP's med.py and ImageReward's head, at a smaller size."""
    layers: dict[str, tuple[int, ...]] = {}
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        for name, context in (("attention", HIDDEN), ("crossattention", WIDTH)):
            for matrix, inputs in (("query", HIDDEN), ("key", context), ("value", context)):
                layers[f"{prefix}{name}.self.{matrix}"] = (HIDDEN, inputs)
            layers[f"{prefix}{name}.output.dense"] = (HIDDEN, HIDDEN)
            layers[f"{prefix}{name}.output.LayerNorm"] = (HIDDEN,)
        layers |= {f"{prefix}intermediate.dense": (96, HIDDEN), f"{prefix}output.dense": (HIDDEN, 96)}
        layers[f"{prefix}output.LayerNorm"] = (HIDDEN,)
    layers["embeddings.LayerNorm"] = (HIDDEN,)
    shapes = {f"{T}{name}.weight": shape for name, shape in layers.items()}
    shapes |= {f"{T}{name}.bias": shape[:1] for name, shape in layers.items()}
    shapes[f"{T}embeddings.word_embeddings.weight"] = (len(WORDS) + 2, HIDDEN)
    shapes[f"{T}embeddings.position_embeddings.weight"] = (40, HIDDEN)
    sizes = (HIDDEN, 1024, 128, 64, 16, 1)
    for index, inputs, outputs in zip((0, 2, 4, 6, 7), sizes, sizes[1:], strict=False):
        shapes |= {f"mlp.layers.{index}.weight": (outputs, inputs), f"mlp.layers.{index}.bias": (outputs,)}
    return shapes


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """A state dict under the published names, with what the published file holds besides."""
    torch.manual_seed(0)
    tensors = {V + name: tensor.detach() for name, tensor in vision_tower().state_dict().items()}
    tensors |= {name: 0.1 * torch.randn(shape) for name, shape in text_shapes().items()}
    tensors[f"{T}embeddings.position_ids"] = torch.arange(40)[None]
    return tensors | {"blip.vision_proj.weight": torch.zeros(4, WIDTH)}


@pytest.fixture(scope="module")
def files(published: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("image_reward")
    torch.save(published, folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    return folder / "ImageReward.pt", folder / "vocab.txt"


def attend(tensors: dict[str, Tensor], prefix: str, x: Tensor, context: Tensor) -> Tensor:
    """Attention of x to a context, added to x and normalised: one layer half of BERT."""
    query, key, value = (
        linear(source, tensors[f"{prefix}.self.{name}.weight"], tensors[f"{prefix}.self.{name}.bias"])
        .unflatten(-1, (2, 64))
        .transpose(0, 1)
        for name, source in (("query", x), ("key", context), ("value", context))
    )
    mixed = scaled_dot_product_attention(query, key, value).transpose(0, 1).flatten(1)
    return add(tensors, f"{prefix}.output", mixed, x)


def add(tensors: dict[str, Tensor], prefix: str, update: Tensor, x: Tensor) -> Tensor:
    update = linear(update, tensors[f"{prefix}.dense.weight"], tensors[f"{prefix}.dense.bias"])
    return normalised(tensors, f"{prefix}.LayerNorm", x + update)


def normalised(tensors: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    return layer_norm(x, (HIDDEN,), tensors[f"{prefix}.weight"], tensors[f"{prefix}.bias"], eps=1e-12)


def see(tensors: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """What timm's tower makes of images (batch, patches + 1, width)."""
    tower = vision_tower()
    tower.load_state_dict({name.removeprefix(V): t for name, t in tensors.items() if name.startswith(V)})
    return tower.forward_features(pixels)


def expected_score(tensors: dict[str, Tensor], pixels: Tensor, ids: list[int]) -> Tensor:
    """One image and the tokens of one text, without any padding."""
    seen = see(tensors, pixels[None])[0]
    tensors = {name.removeprefix(T): tensor for name, tensor in tensors.items()}
    words = (
        tensors["embeddings.word_embeddings.weight"][ids] + tensors["embeddings.position_embeddings.weight"][: len(ids)]
    )
    x = normalised(tensors, "embeddings.LayerNorm", words)
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}"
        x = attend(tensors, f"{prefix}.attention", x, x)
        x = attend(tensors, f"{prefix}.crossattention", x, seen)
        inner = linear(x, tensors[f"{prefix}.intermediate.dense.weight"], tensors[f"{prefix}.intermediate.dense.bias"])
        x = add(tensors, f"{prefix}.output", torch.nn.functional.gelu(inner), x)
    score = x[0]
    for index in (0, 2, 4, 6, 7):
        score = linear(score, tensors[f"mlp.layers.{index}.weight"], tensors[f"mlp.layers.{index}.bias"])
    return (score[0] - MEAN) / STD


@torch.no_grad()
def test_scores_are_those_of_the_published_architecture(files: tuple[Path, Path], published: dict[str, Tensor]) -> None:
    check(*files)
    picture = Image.effect_noise((57, 43), 90).convert("RGB")
    preprocess = v2.Compose(
        [
            v2.Resize(32, interpolation=v2.InterpolationMode.BICUBIC),
            v2.CenterCrop(32),
            v2.Normalize([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
        ]
    )
    images = torch.stack([to_tensor(picture), 1 - to_tensor(picture)])
    reward = load(*files)
    forwards, backwards = reward(images, TEXTS, TEXTS[::-1])
    pixels = preprocess(images)
    torch.testing.assert_close(reward.features(images), normalize(see(published, pixels)[:, 0]), atol=1e-5, rtol=1e-5)
    expected = torch.stack([torch.stack([expected_score(published, p, ids) for ids in IDS]) for p in pixels])
    torch.testing.assert_close(forwards, expected.diag(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backwards, expected.flip(1).diag(), atol=1e-5, rtol=1e-5)
    assert expected.std() > 1e-3


def test_what_is_missing_is_named(files: tuple[Path, Path], published: dict[str, Tensor], tmp_path: Path) -> None:
    for missing, message in {
        f"{V}blocks.1.attn.proj.weight": r"missing vision\.encoder\.layers\.1\.self_attn\.projection\.weight",
        "mlp.layers.7.bias": r"missing mlp\.7\.bias",
        f"{V}cls_token": "is no ImageReward: it has no tensor blip.visual_encoder.cls_token",
    }.items():
        torch.save({name: t for name, t in published.items() if name != missing}, tmp_path / "ImageReward.pt")
        with pytest.raises(ConfigError, match=message):
            check(tmp_path / "ImageReward.pt", files[1])
    with pytest.raises(ConfigError, match="no vocabulary at"):
        check(files[0], tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(map(str, range(20))))
    with pytest.raises(ConfigError, match="knows 14 of them"):
        check(files[0], tmp_path)
