"""A text-to-image graph for ComfyUI that draws with an exported transformer, as a file or inside a picture.

In two forms: `prompt` (node -> class and inputs), which its server takes, and `workflow`, which its page opens. File
names of text encoders and VAE are those that ComfyUI's FLUX example uses. Not run in ComfyUI.
"""

from typing import Any

from srpo.generate import ModelFiles
from srpo.models.layout import read_json

Graph = dict[str, dict[str, Any]]
CLIP, T5, VAE = "clip_l.safetensors", "t5xxl_fp16.safetensors", "ae.safetensors"
OUTPUTS = {
    "UNETLoader": ["MODEL"],
    "DualCLIPLoader": ["CLIP"],
    "VAELoader": ["VAE"],
    "ModelSamplingFlux": ["MODEL"],
    "ModelSamplingAuraFlow": ["MODEL"],
    "CLIPTextEncode": ["CONDITIONING"],
    "FluxGuidance": ["CONDITIONING"],
    "EmptySD3LatentImage": ["LATENT"],
    "KSampler": ["LATENT"],
    "VAEDecode": ["IMAGE"],
    "SaveImage": [],
}


def text_to_image(files: ModelFiles, prompt: str, seed: int, file_name: str) -> Graph:
    """The graph that draws `prompt` with the transformer `file_name` in ComfyUI's `diffusion_models/`."""
    height, width, sampling = files.model.height, files.model.width, files.sampling
    return {
        "transformer": _node("UNETLoader", unet_name=file_name, weight_dtype="default"),
        "clip": _node("DualCLIPLoader", clip_name1=T5, clip_name2=CLIP, type="flux"),
        "vae": _node("VAELoader", vae_name=VAE),
        "shift": _shift(files),
        "text": _node("CLIPTextEncode", clip=["clip", 0], text=sampling.text(prompt)),
        "guided": _node("FluxGuidance", conditioning=["text", 0], guidance=sampling.guidance or 0.0),
        "empty": _node("CLIPTextEncode", clip=["clip", 0], text=""),
        "noise": _node("EmptySD3LatentImage", width=width, height=height, batch_size=1),
        "sampler": _node(
            "KSampler",
            model=["shift", 0],
            positive=["guided", 0],
            negative=["empty", 0],  # cfg 1: never read
            latent_image=["noise", 0],
            seed=seed,
            steps=sampling.num_steps,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        ),
        "image": _node("VAEDecode", samples=["sampler", 0], vae=["vae", 0]),
        "save": _node("SaveImage", images=["image", 0], filename_prefix="srpo"),
    }


def _shift(files: ModelFiles) -> dict[str, Any]:
    """The schedule of the model's folder: shifted by the picture's size (FLUX.1-dev), or always alike (schnell)."""
    settings = read_json(files.base / "scheduler" / "scheduler_config.json")
    if not settings.get("use_dynamic_shifting"):
        # ModelSamplingSD3 would hand a FLUX model times of 0 to 1000
        return _node("ModelSamplingAuraFlow", model=["transformer", 0], shift=settings.get("shift", 1.0))
    return _node(
        "ModelSamplingFlux",
        model=["transformer", 0],
        max_shift=settings.get("max_shift", 1.15),
        base_shift=settings.get("base_shift", 0.5),
        width=files.model.width,
        height=files.model.height,
    )


def as_workflow(graph: Graph) -> dict[str, Any]:
    """The graph as ComfyUI's page saves it: numbered nodes with slots, and links between them."""
    numbers = {name: number for number, name in enumerate(graph, start=1)}
    nodes: list[dict[str, Any]] = []
    links: list[list[Any]] = []
    for name, node in graph.items():
        slots: list[dict[str, Any]] = []
        for key, value in node["inputs"].items():
            if isinstance(value, list):
                link, kind = len(links) + 1, OUTPUTS[graph[value[0]]["class_type"]][value[1]]
                links.append([link, numbers[value[0]], value[1], numbers[name], len(slots), kind])
                slots.append({"name": key, "type": kind, "link": link})
        nodes.append(
            {
                "id": numbers[name],
                "type": node["class_type"],
                "pos": [320 * ((numbers[name] - 1) % 4), 300 * ((numbers[name] - 1) // 4)],
                "size": [300, 200],
                "flags": {},
                "order": numbers[name] - 1,
                "mode": 0,
                "inputs": slots,
                "properties": {},
                "widgets_values": _widgets(node),
            }
        )
    for node in nodes:
        kinds = OUTPUTS[node["type"]]
        node["outputs"] = [
            {
                "name": kind,
                "type": kind,
                "slot_index": slot,
                "links": [link[0] for link in links if link[1:3] == [node["id"], slot]],
            }
            for slot, kind in enumerate(kinds)
        ]
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _widgets(node: dict[str, Any]) -> list[Any]:
    """Values in the order of the node's inputs; after a seed the page keeps what happens to it after a run."""
    values: list[Any] = []
    for key, value in node["inputs"].items():
        if not isinstance(value, list):
            values += [value, "fixed"] if key == "seed" else [value]
    return values


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}
