"""What a run would do, and whether it can: everything that can be known before any expensive work."""

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from math import ceil
from pathlib import Path, PurePosixPath

import torch

from srpo import models, rewards
from srpo.config import LoraConfig, RewardConfig, RunConfig, ScoreConfig, TrainConfig
from srpo.control_words import check_prompts, control_words
from srpo.embedding import Texts, texts_at_hand
from srpo.errors import ConfigError, disk_full
from srpo.evaluation.gate import check_metrics
from srpo.evaluation.published import check_benchmark
from srpo.evaluation.scores import check_captions
from srpo.forecast.footprint import disk_needed, embedding_bytes, gibibytes, memory_to_save, to_fetch
from srpo.hub import Part, fetched, is_remote, missing, resolve, survey, without_weights
from srpo.hub.place import store_dir
from srpo.images.survey import describe_images
from srpo.prompts.split import split_held_out
from srpo.rewards.measured import check_score, find_score
from srpo.rollout import describe
from srpo.shapes.render import SIZE
from srpo.steps import STEPS
from srpo.strict import Strict
from srpo.tuning import adapted, add_lora, check_attention, check_compiler

WORLD = "builtin:shapes"
PUBLISHED_IMAGES = 32
"""Of an update of the published recipes."""


class Check(Strict):
    """One thing that was looked at and found good."""

    subject: str
    finding: str


class Plan(Strict):
    """A run before it starts."""

    config: RunConfig
    steps: tuple[str, ...]
    """Names of the steps that will run, in order."""
    checks: tuple[Check, ...]
    disk_needed: int
    """Bytes that downloads, checkpoints, the aligned transformer and embeddings will take at most."""
    disk_free: int | None
    """Bytes free where they are written; None where that is not on this machine."""


def make_plan(
    config: RunConfig, output_dir: Path | None, steps: tuple[str, ...] = tuple(STEPS), written: int = 0
) -> Plan:
    """Check the run; ConfigError holds one line for each thing that is wrong.

    `output_dir`: None for a run in pods, which writes nothing on this machine, whose disk then says nothing.
    `written`: bytes that an earlier attempt has left, which going on with it need not write again.
    """
    checks: list[Check] = []
    problems: list[str] = []

    def look(subject: str, check: Callable[[], str]) -> None:
        try:
            checks.append(Check(subject=subject, finding=check()))
        except ConfigError as error:
            if str(error) not in problems:  # a folder that is not there spoils several checks
                problems.append(str(error))

    look("model", lambda: _model(config))
    look("guidance", lambda: _guidance(config))
    for name, reward in config.all_rewards.items():
        look(name, partial(_reward, config, reward))
    for name, score in config.evaluation.scores.items():
        look(f"scores.{name}", partial(_score, name, score))
    look("rollout", lambda: describe(config))
    if config.train.lora is not None:
        look("adapter", partial(_adapter, config, config.train.lora))
    if "train" in steps:
        look("update", lambda: _update(config.train, output_dir is not None and torch.cuda.is_available()))
    look("prompts", lambda: _prompts(config))
    if config.images:
        look("images", lambda: describe_images(config))
    look("words", lambda: _words(config))
    look("metrics", lambda: _metrics(config))
    if output_dir:
        look("output", lambda: _writable(output_dir))
    elif "train" in steps:
        look("memory", lambda: _memory(config))
    if problems:
        raise ConfigError("\n".join(problems))
    needed = max(0, disk_needed(config, steps) - written)
    if output_dir is None:
        needed += to_fetch(config)
        checks.append(Check(subject="disk", finding=f"at most {gibibytes(needed)} needed, none of it here"))
        return Plan(config=config, steps=steps, checks=tuple(checks), disk_needed=needed, disk_free=None)
    needed += _space_for_downloads(config, output_dir)
    free = shutil.disk_usage(output_dir).free
    if needed > free:
        raise ConfigError(
            f"{output_dir} has {gibibytes(free)} free, but downloads, checkpoints and embeddings may take "
            f"{gibibytes(needed)}; free some space, run in another folder, or lower train.keep_last"
            + ("" if config.train.lora else "; checkpoints of an adapter are small (train.lora, as in 24gb.yaml)")
        )
    checks.append(Check(subject="disk", finding=f"at most {gibibytes(needed)} needed, {gibibytes(free)} free"))
    return Plan(config=config, steps=steps, checks=tuple(checks), disk_needed=needed, disk_free=free)


def _space_for_downloads(config: RunConfig, output_dir: Path) -> int:
    """Bytes of downloads that go to the disk of the output folder; ConfigError if another disk cannot take them."""
    needed = to_fetch(config)
    disk = next(folder for folder in (store_dir(), *store_dir().parents) if folder.exists())
    if not needed or disk.stat().st_dev == output_dir.stat().st_dev:
        return needed
    if (free := shutil.disk_usage(disk).free) < needed:
        raise ConfigError(
            f"{disk} has {gibibytes(free)} free, but {gibibytes(needed)} are to be fetched into it; "
            "free some space, or let SRPO_STORE name another place"
        )
    return 0


def _remote(source: str, part: Part) -> str | None:
    """What a remote source holds, if it still has to be fetched: its layout can only be checked after that."""
    if not is_remote(source):
        return None
    listing = survey(source, part)
    left = missing(listing)
    if not left and fetched(source):
        return None
    if part == "model" and not any(
        PurePosixPath(file.path).match("transformer/*.safetensors") for file in listing.files
    ):
        raise ConfigError(f"model.source: {source} is no diffusers folder; it has no transformer/*.safetensors")
    facts = [f"{gibibytes(left)} of {gibibytes(listing.size)} in {len(listing.files)} files to fetch"]
    facts += [f"commit {listing.revision[:12]}"] if listing.revision else []
    facts += [f"licence {listing.licence}"] if listing.licence else []
    return f"{source}: {', '.join(facts)}; tensors are checked when they are here"


def _model(config: RunConfig) -> str:
    if found := _remote(config.model.source, "model"):
        models.find_family(config.model.family)
        return found
    folder = resolve(config.model.source, "model")
    models.check_model(config.model, folder)
    found = (
        f"{config.model.source}: a whole {config.model.family} folder; {config.model.height}x{config.model.width} fits"
    )
    if config.train.vae_checkpointing and not models.can_recompute_vae(folder):
        found += "; its VAE cannot be computed again: train.vae_checkpointing does nothing"
    return found


def _guidance(config: RunConfig) -> str:
    values = config.guidance
    if is_remote(config.model.source) and fetched(config.model.source) is None:
        return "checked when the model is here"
    models.check_guidance(config.model, resolve(config.model.source, "model"), values)
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _reward(config: RunConfig, reward: RewardConfig) -> str:
    if found := _remote(reward.source, "reward"):
        _architecture(reward, "reward")
        return found
    path = resolve(reward.source, "reward")
    rewards.check_reward(reward, path)
    if config.method.trains_on == "relative":
        rewards.check_text_is_read(reward, path, config.method.unless_text_is_read)
    return f"{reward.source}: a whole {reward.family} checkpoint"


def _architecture(judge: RewardConfig | ScoreConfig, part: Part) -> None:
    """What can be said of a judge's architecture while its checkpoint is elsewhere."""
    names = [file.path for file in survey(judge.source, part).files]
    rewards.find_family(judge.family).check_architecture(judge.architecture, names)


def _score(name: str, score: ScoreConfig) -> str:
    find_score(name, score)
    if found := [text for source in score.sources if (text := _remote(source, "score"))]:
        if score.family in rewards.REWARDS:
            _architecture(score, "score")
        return "; ".join(found)
    places = [resolve(source, "score") for source in score.sources]
    check_score(name, score, places[0], places[1] if score.companion else None)
    return f"{score.source}: a whole {score.family} checkpoint"


def _adapter(config: RunConfig, lora: LoraConfig) -> str:
    """Tried on the transformer without its weights; of a model that is not here only small files are fetched."""
    transformer = models.model_skeleton(config.model, without_weights(config.model.source, "model")).transformer
    add_lora(transformer, lora)
    return f"rank {lora.rank} on {len(adapted(transformer))} layers"


def _update(train: TrainConfig, on_gpu: bool) -> str:
    """`on_gpu`: this machine has one, and is taken for the one that trains."""
    check_attention(train, on_gpu)
    check_compiler(train, on_gpu)
    parts = {"batch_size": train.batch_size, "accumulation": train.accumulation, "num_processes": train.num_processes}
    finding = f"{train.images_per_update} images ({' x '.join(f'{name} {count}' for name, count in parts.items())})"
    if train.num_processes > 1 and train.images_per_update > PUBLISHED_IMAGES:
        finding += f", more than the {PUBLISHED_IMAGES} of the published recipes: divide accumulation by num_processes"
    return finding


def _prompts(config: RunConfig) -> str:
    texts = texts_at_hand(config)
    _belong_to_the_model(config, texts)
    if config.evaluation.world:
        check_captions([prompt.text for prompt in texts.held_out])
    check_benchmark(config.evaluation, len(texts.held_out))
    size = embedding_bytes(config) / 2**20
    captions = f"{len(texts.captions)} captions of images, " if config.images else ""
    train = f"{len(texts.train)} to {'roll out' if config.images else 'train on'}"
    monitor, verdict = split_held_out([prompt.category for prompt in texts.held_out], config.monitor.share)
    held_out = f"{len(texts.held_out)} held out ({len(monitor)} for the monitor, {len(verdict)} for the verdict)"
    return f"{captions}{train}, {held_out}; embeddings of {size:.3g} MiB each"


def _belong_to_the_model(config: RunConfig, texts: Texts) -> None:
    """ConfigError for the embedded world's captions, the default of the settings, where another model would read them.

    A model in a folder is of that world if its pictures are of that size.
    """
    if config.model.source.startswith("builtin:") or {config.model.height, config.model.width} == {SIZE}:
        return
    read = {"train": texts.train, "held_out": texts.held_out}
    if wrong := [f"prompts.{split}" for split in read if read[split] and getattr(config.prompts, split) == WORLD]:
        raise ConfigError(
            f"{' and '.join(wrong)}: {WORLD} are captions of the embedded world, and {config.model.source} is no model "
            "of it; give a file of prompts, or builtin:photos"
        )


def _words(config: RunConfig) -> str:
    words = control_words(config.preference)
    texts = texts_at_hand(config)
    if words.digest and (texts.captions or not config.images):  # captions may have still to be fetched
        check_prompts(words, [prompt.text for prompt in texts.trained_on])
    finding = f"{', '.join(words.positive)} against {', '.join(words.negative)}"
    return finding + (f"; {len(words.prompts)} prompts and {len(words.ranges)} ranges differ" if words.digest else "")


def _metrics(config: RunConfig) -> str:
    check_metrics(config)
    return "everything that monitor.bounds and evaluation.gate name is measured"


def _memory(config: RunConfig) -> str:
    given, needed = config.resources.train.memory, memory_to_save(config)
    if given * 2**30 < needed:
        raise ConfigError(
            f"resources.train.memory is {given} GiB, but saving a checkpoint may take {gibibytes(needed)} of a pod; "
            f"set it to {ceil(needed / 2**30)} or more, or train an adapter (train.lora)"
        )
    return f"at most {gibibytes(needed)} to save a checkpoint, of {given} GiB that a pod of the training has"


def _writable(folder: Path) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
            os.fsync(file.fileno())
    except OSError as error:
        if disk_full(error):
            raise
        raise ConfigError(
            f"the output folder {folder} cannot be written ({error.strerror}); run in a folder of your own"
        ) from None
    return f"{folder} can be written"
