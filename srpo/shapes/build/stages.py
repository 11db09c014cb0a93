"""The stages of the builder: train, round, save in the layout of users' own models, measure what was saved."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import open_clip
import torch
import transformers
from diffusers import AutoencoderKL, FluxPipeline
from safetensors.torch import load_file, save_file

from srpo.shapes.build.biased import bias, bias_figures
from srpo.shapes.build.oracle import oracle_figures, train_oracle
from srpo.shapes.build.reward import reward_figures, train_reward
from srpo.shapes.build.samples import sample_figures
from srpo.shapes.build.text import random_text_encoders
from srpo.shapes.build.transformer import distil, encode_pictures, train_teacher
from srpo.shapes.build.vae import train_vae, vae_figures
from srpo.shapes.measure import ORACLE_PATH, load_oracle
from srpo.shapes.models import BPE_NAME, EMBED_DIM, REWARD_NAME, reward_config, scheduler, write_bpe
from srpo.shapes.render import HELD_OUT, SEEN

REWARD_FILE = "HPS_shapes.pt"
BIASED_FILE = "HPS_biased.safetensors"
FIGURES_FILE = "figures.json"


def build_vae(output: Path, seed: int, scale: float) -> None:
    """The autoencoder, in bf16."""
    vae = train_vae(seed, scale)
    vae.to(torch.bfloat16).save_pretrained(output / "flux" / "vae")


def load_vae(output: Path) -> AutoencoderKL:
    """The saved autoencoder in float32, frozen; where it was read is not for the file that is saved of it again."""
    vae = AutoencoderKL.from_pretrained(output / "flux" / "vae", dtype=torch.float32).eval().requires_grad_(False)
    vae.register_to_config(_name_or_path="")
    return vae


def build_transformer(output: Path, seed: int, scale: float) -> None:
    """Trains on latents of the saved autoencoder, then saves the whole pipeline around it."""
    encoders, vae = random_text_encoders(seed), load_vae(output)
    pictures = encode_pictures(vae, encoders, seed, scale)
    teacher = train_teacher(pictures, seed, scale)
    student = distil(teacher, pictures, seed, scale)
    pipeline = FluxPipeline(
        scheduler=scheduler(),
        vae=vae,
        text_encoder=encoders.clip,
        tokenizer=encoders.clip_tokenizer,
        text_encoder_2=encoders.t5,
        tokenizer_2=encoders.t5_tokenizer,
        transformer=student,
    )
    pipeline.to(torch.bfloat16).save_pretrained(output / "flux")


def build_reward(output: Path, seed: int, scale: float) -> None:
    """HPSv2's layout: `state_dict` inside a torch file, in half precision; open_clip's model settings beside it."""
    folder = _reward_folder(output / "reward", EMBED_DIM)
    model = train_reward(seed, folder, scale)
    torch.save({"state_dict": model.half().state_dict()}, folder / REWARD_FILE)


def build_biased(output: Path, seed: int, scale: float) -> None:
    """The reward that likes saturation, made from the saved one, as a safetensors file."""
    folder = _reward_folder(output / "biased", EMBED_DIM + 1)
    model = bias(load_reward(output), folder, seed)
    save_file({name: tensor.half() for name, tensor in model.state_dict().items()}, folder / BIASED_FILE)


def _reward_folder(folder: Path, embed_dim: int) -> Path:
    """A folder with open_clip's model settings and the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bpe(folder / BPE_NAME)
    settings = json.dumps(reward_config(embed_dim), indent=2)
    (folder / f"{REWARD_NAME}.json").write_text(f"{settings}\n", encoding="utf-8")
    return folder


def load_reward(output: Path) -> open_clip.CLIP:
    """The saved reward in float32."""
    return _frozen(EMBED_DIM, torch.load(output / "reward" / REWARD_FILE, weights_only=True)["state_dict"])


def load_biased(output: Path) -> open_clip.CLIP:
    """The saved biased reward in float32."""
    return _frozen(EMBED_DIM + 1, load_file(output / "biased" / BIASED_FILE))


def _frozen(embed_dim: int, weights: dict[str, torch.Tensor]) -> open_clip.CLIP:
    model = open_clip.CLIP(**reward_config(embed_dim))
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False)


def build_oracle(output: Path, seed: int, scale: float) -> None:
    """The oracle, in half precision."""
    oracle = train_oracle(seed, scale)
    output.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.half() for name, tensor in oracle.state_dict().items()}, output / ORACLE_PATH.name)


def measure(output: Path) -> dict[str, Any]:
    """Figures of the saved files, whichever stages ran."""
    oracle = load_oracle(output / ORACLE_PATH.name)
    pipeline = FluxPipeline.from_pretrained(output / "flux", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return {
        "vae": vae_figures(load_vae(output)),
        "samples": sample_figures(pipeline, oracle),
        "reward": reward_figures(load_reward(output), output / "reward"),
        "biased": reward_figures(load_biased(output), output / "biased"),
        "per_unit_of_saturation": {
            "reward": bias_figures(load_reward(output), output / "reward"),
            "biased": bias_figures(load_biased(output), output / "biased"),
        },
        "oracle": {"seen": oracle_figures(oracle, SEEN), "held_out": oracle_figures(oracle, HELD_OUT)},
        "megabytes": round(sum(path.stat().st_size for path in output.rglob("*") if path.is_file()) / 1e6, 2),
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "open_clip": open_clip.__version__,
        },
    }


def read_figures(output: Path) -> dict[str, Any]:
    """What was recorded so far."""
    path = output / FIGURES_FILE
    figures: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return figures


def record(output: Path, figures: Mapping[str, Any]) -> None:
    """Adds figures to the file; those of one stage replace what that stage had."""
    merged = read_figures(output)
    for name, value in figures.items():
        merged[name] = merged.get(name, {}) | value if isinstance(value, Mapping) else value
    text = json.dumps(_rounded(merged), indent=2)
    (output / FIGURES_FILE).write_text(f"{text}\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(entry) for name, entry in value.items()}
    return round(value, 4) if isinstance(value, float) else value
