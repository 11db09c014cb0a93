"""What several tests need: small untrained models in the published layouts, one short real run of the pipeline, S3."""

import gc
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

os.environ |= {"HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_LOGGING_LEVEL": "WARNING"}

if TYPE_CHECKING:
    from pipelines.outcome import Outcome
    from pipelines.place import Place
    from srpo.artifacts import TrainJob

CIRCLES = [f"a {word} circle on a blue background" for word in ("red", "green", "yellow", "cyan", "purple")]
CONFIG = Path(__file__).parent.parent / "configs" / "shapes.yaml"
SHORT = (
    "train.num_updates=2",
    "train.batch_size=2",
    "train.save_every=1",
    "rollout.num_steps=2",
    "monitor.every=1",
    "monitor.num_images=4",
    "monitor.strip_images=2",
    "evaluation.num_steps=2",
    "evaluation.num_prompts=5",
    "evaluation.seeds_per_prompt=2",
    "evaluation.num_report_images=2",
    "evaluation.num_resamples=100",
)


def pytest_collection_finish() -> None:
    """What is imported by now stays: it need not be looked at each time that a model's memory is given back."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Else libraries that count what is left at the end complain of it."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Place]":
    """The working folder of all runs in this process: ZenML reads its settings once per process."""
    from zenml.environment import Environment

    from pipelines.place import here

    listed = cache(Environment.get_python_packages)  # pip, which ZenML asks twice a run, takes seconds
    Environment.get_python_packages = staticmethod(listed)  # type: ignore[method-assign]
    before, environment = Path.cwd(), dict(os.environ)
    os.chdir(tmp_path_factory.mktemp("work"))
    place = here()
    place.prepare()
    yield place
    os.chdir(before)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="session")
def finished(place: "Place") -> "Outcome":
    """The whole pipeline, two updates long."""
    from srpo.config import load_config
    from tests.runs import run

    return run(place, load_config(CONFIG, SHORT))


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    """An S3 server on loopback."""
    from tests.s3 import s3_server

    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an S3 server with one empty bucket, which the environment names to everyone."""
    from tests.s3 import BUCKET, make_bucket

    client = make_bucket(moto_url, monkeypatch)
    yield client
    for entry in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        client.delete_object(Bucket=BUCKET, Key=entry["Key"])
    client.delete_bucket(Bucket=BUCKET)


@pytest.fixture(scope="session")
def flux_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained FLUX at the Shapes world's size, saved by FluxPipeline."""
    import torch
    from diffusers import FluxPipeline

    from srpo.shapes import models as tiny

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "flux"
    clip, t5 = tiny.clip_tokenizer(), tiny.t5_tokenizer()
    vae = tiny.autoencoder()
    vae.register_to_config(scaling_factor=0.4, shift_factor=0.1)
    FluxPipeline(
        scheduler=tiny.scheduler(),
        vae=vae,
        text_encoder=tiny.clip_text_model(clip),
        tokenizer=clip,
        text_encoder_2=tiny.t5_encoder(t5),
        tokenizer_2=t5,
        transformer=tiny.transformer(),
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained Qwen-Image, saved by QwenImagePipeline."""
    from tests import qwen

    return qwen.save(tmp_path_factory.mktemp("models") / "qwen")


@pytest.fixture(scope="session")
def hps_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained open_clip model in HPSv2's file layout, its architecture and vocabulary beside it."""
    import open_clip
    import torch

    from srpo.shapes import models as tiny

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("hps")
    tiny.write_bpe(folder / tiny.BPE_NAME)
    (folder / "tiny.json").write_text(json.dumps(tiny.reward_config()))
    model = open_clip.CLIP(**tiny.reward_config())
    torch.save({"state_dict": model.state_dict()}, folder / "HPS_tiny.pt")
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained CLIPModel with its tokenizer, in transformers' layout (PickScore's)."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    from srpo.shapes import models as tiny

    torch.manual_seed(2)
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = tiny.clip_tokenizer()
    width = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = width | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": tiny.CLIP_TOKENS,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = width | {"image_size": 32, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def job(flux_folder: Path, hps_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> "TrainJob":
    """A training job of six updates; `tests.jobs.place` gives it an output folder."""
    from srpo.artifacts import TrainJob, Weights
    from srpo.config import RunConfig
    from srpo.hub import fetch
    from srpo.prompts import embed_prompts

    root = tmp_path_factory.mktemp("job")
    (root / "train.txt").write_text("\n".join(CIRCLES))
    (root / "held_out.txt").write_text("two cats\na dog\na fox\na hen\nthree mice\na cow\nan owl")
    config = RunConfig.model_validate(
        {
            "seed": 7,
            "model": {"source": str(flux_folder), "height": 32, "width": 32, "max_sequence_length": 12},
            "reward": {"source": str(hps_folder), "architecture": "tiny.json"},
            "prompts": {"train": str(root / "train.txt"), "held_out": str(root / "held_out.txt")},
            "align": {"num_injections": 2},
            "rollout": {"num_steps": 3},
            "train": {
                "num_updates": 6,
                "batch_size": 2,
                "accumulation": 2,
                "precision": "fp32",
                "learning_rate": 1e-4,
                "schedule": "cosine",
                "save_every": 2,
                "gradient_checkpointing": "none",
            },
            "monitor": {"every": 2, "num_images": 4, "strip_images": 2, "bounds": []},
            "evaluation": {"num_steps": 3},
        }
    )
    weights = Weights(model=fetch(config.model.source, "model"), reward=fetch(config.reward.source, "reward"))
    prompts = embed_prompts(config.model, config.prompts, weights, root / "embeddings")
    return TrainJob(config=config, weights=weights, prompts=prompts, output_dir="")


@pytest.fixture(scope="session")
def whole(job: "TrainJob", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the job, run without interruption."""
    from tests.jobs import place, run

    output_dir = tmp_path_factory.mktemp("whole")
    run(place(job, output_dir))
    return output_dir
