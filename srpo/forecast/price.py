"""What a run would take on a GPU, from config files alone: memory, and time at the speed that training reaches."""

from math import ceil

from srpo import models, rewards
from srpo.config import RunConfig
from srpo.errors import ConfigError
from srpo.forecast.cost import Cost, count
from srpo.gpus import ALLOCATOR, EXPECTED, REACHABLE, find_gpu
from srpo.hub import without_weights
from srpo.prompts import read_prompts
from srpo.prompts.split import split_held_out
from srpo.rewards.measured import score_bytes
from srpo.strict import Strict

TF32 = 2.0
"""How much longer products in TF32 take than in bf16, on every GPU of the table."""
NUM_MODELS = 2
"""Base and candidate; whether there will be a champion is not known before."""


class Prediction(Strict):
    """What a run asks of one GPU."""

    gpu: str
    memory: float
    """GiB at the peak, with what the allocator loses."""
    phase: str
    """Where the peak is: embed, train, or evaluate (and drawing)."""
    fits: bool
    seconds_per_update: float
    """At the share of the peak speed that training usually reaches."""
    floor_per_update: float
    """At the share that large matrix products reach."""
    hours: float
    """All updates."""
    measuring_hours: float
    """Held-out measurements during training."""
    evaluation_hours: float
    """Pictures of the base and the trained model, drawn and scored; a champion takes half as much again."""
    forward_equivalents: float
    """Work per image, in forwards of the transformer."""


def predict(config: RunConfig, cost: Cost, gpu: str) -> Prediction:
    """The cost on a GPU of `srpo.gpus`."""
    device = find_gpu(gpu)
    memory = cost.memory / 2**30 * ALLOCATOR
    work = (cost.rollout + cost.gradient) / (device.peak * 1e12)
    image_hours = cost.held_out / (device.peak * 1e12 * EXPECTED * 3600)
    slower = TF32 if config.model.weights == "fp32" else 1.0  # training and its measurements run under autocast
    before = 1 if config.train.start == "base" else 2  # the base, and what training starts from
    measurements = before + ceil(config.train.num_updates / config.monitor.every)
    return Prediction(
        gpu=gpu,
        memory=memory,
        phase=max(cost.phases, key=cost.phases.__getitem__),
        fits=memory <= device.memory,
        seconds_per_update=work / EXPECTED,
        floor_per_update=work / REACHABLE,
        hours=work / EXPECTED * config.train.num_updates / 3600,
        measuring_hours=image_hours * config.monitor.num_images * measurements,
        evaluation_hours=image_hours * slower * num_drawn(config) * config.evaluation.seeds_per_prompt * NUM_MODELS,
        forward_equivalents=cost.forward_equivalents / (config.train.batch_size * config.train.accumulation),
    )


def num_drawn(config: RunConfig) -> int:
    """Held-out prompts that an evaluation draws: of those that the monitor leaves, `evaluation.num_prompts` at most."""
    try:
        held_out = read_prompts(config.prompts.held_out, "held_out", config.prompts.max_characters)
    except ConfigError:  # a step on another machine, which has the embeddings alone
        return config.evaluation.num_prompts
    _, verdict = split_held_out([prompt.category for prompt in held_out], config.monitor.share)
    return min(len(verdict), config.evaluation.num_prompts)


def price(config: RunConfig, gpu: str) -> Prediction:
    """Memory and time that the run would take on a GPU, counted from the config files of model and rewards."""
    find_gpu(gpu)
    cost = count(config, *_skeletons(config))
    assert cost, "there is no limit to what it may need"
    return predict(config, _with_scores(config, cost), gpu)


def planned_gpu_hours(config: RunConfig) -> dict[str, float] | None:
    """GPU-hours of the steps `train` and `evaluate` on GPUs of the kind `resources.gpu`; None where it names none."""
    if config.resources.gpu is None:
        return None
    alone = price(config, config.resources.gpu)
    train = alone.hours * config.train.num_processes + alone.measuring_hours
    return {"train": train, "evaluate": alone.evaluation_hours}


def price_if_it_fits(config: RunConfig, gpu: str) -> Prediction | None:
    """The same; None, mostly before anything is counted, for a run that does not fit."""
    cost = count(config, *_skeletons(config), room=find_gpu(gpu).memory * 2**30 / ALLOCATOR)
    prediction = predict(config, _with_scores(config, cost), gpu) if cost else None
    return prediction if prediction and prediction.fits else None


def _with_scores(config: RunConfig, cost: Cost) -> Cost:
    """Held-out scores lie beside it: those that the monitor names while training is measured, in an evaluation all."""
    sizes = {name: score_bytes(name, score) for name, score in config.evaluation.scores.items()}
    watching = cost.watching + sum(sizes[name] for name in config.watched_scores)
    return cost.model_copy(update={"watching": watching, "evaluate": cost.evaluate + sum(sizes.values())})


def _skeletons(config: RunConfig) -> tuple[models.TextToImage, list[rewards.Reward], models.TextSkeleton]:
    """Model, rewards and text encoders without weights; of what is not here yet only small files are fetched."""
    folder = without_weights(config.model.source, "model")
    return (
        models.model_skeleton(config.model, folder),
        [
            rewards.reward_skeleton(reward, without_weights(reward.source, "reward"))
            for reward in config.all_rewards.values()
        ],
        models.text_skeleton(config.model, folder),
    )
