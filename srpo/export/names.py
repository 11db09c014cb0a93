"""Diffusers' names of FLUX's tensors as the names of FLUX's first release, which ComfyUI calls its own.

ComfyUI reads diffusers-named FLUX transformers from `diffusion_models/` too, but its conversion keeps only the names it
knows: scales would be lost, and q, k, v, which it holds as one matrix, can have only one. So scaled fp8 needs these
names (seen in ComfyUI's source, `comfy/model_detection.py` and `comfy/utils.py`; not run in ComfyUI). The first release
has shift before scale in the last modulation, diffusers scale before shift.
"""

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

TOP = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "proj_out": "final_layer.linear",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
}
STREAMS = {
    "img": ("norm1.linear", ("to_q", "to_k", "to_v"), "to_out.0", ("norm_q", "norm_k"), "ff"),
    "txt": (
        "norm1_context.linear",
        ("add_q_proj", "add_k_proj", "add_v_proj"),
        "to_add_out",
        ("norm_added_q", "norm_added_k"),
        "ff_context",
    ),
}
SINGLE = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}


def _double() -> dict[str, tuple[str, ...]]:
    """Name in a double block -> diffusers' names of its parts, stacked in this order."""
    names: dict[str, tuple[str, ...]] = {}
    for stream, (modulation, qkv, out, (query, key), mlp) in STREAMS.items():
        names |= {
            f"{stream}_mod.lin": (modulation,),
            f"{stream}_attn.qkv": tuple(f"attn.{part}" for part in qkv),
            f"{stream}_attn.proj": (f"attn.{out}",),
            f"{stream}_attn.norm.query_norm": (f"attn.{query}",),
            f"{stream}_attn.norm.key_norm": (f"attn.{key}",),
            f"{stream}_mlp.0": (f"{mlp}.net.0.proj",),
            f"{stream}_mlp.2": (f"{mlp}.net.2",),
        }
    return names


def original_tensors(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of the first release from a diffusers state dict; each diffusers tensor is used exactly once."""
    used = 0
    for target, sources in _layers(tensors).items():
        for kind in ("weight", "bias"):
            parts = [tensors[f"{source}.{kind}"] for source in sources if f"{source}.{kind}" in tensors]
            used += len(parts)
            if not parts:
                continue
            if target.startswith("final_layer.adaLN"):
                parts = list(reversed(parts[0].chunk(2)))
            yield f"{target}.{'scale' if target.endswith('_norm') else kind}", torch.cat(parts)
    assert used == len(tensors), "the architecture's own names, which the loader has checked"


def _layers(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    """Name of a layer -> diffusers' names of its parts."""
    layers: dict[str, tuple[str, ...]] = {target: (source,) for source, target in TOP.items()}
    for prefix, short, block in (
        ("transformer_blocks", "double_blocks", _double()),
        ("single_transformer_blocks", "single_blocks", SINGLE),
    ):
        numbers = {int(found[1]) for name in tensors if (found := re.match(rf"{prefix}\.(\d+)\.", name))}
        for number in sorted(numbers):
            for target, sources in block.items():
                layers[f"{short}.{number}.{target}"] = tuple(f"{prefix}.{number}.{source}" for source in sources)
    return layers
