"""What a run that starts in the middle takes from an earlier one: outputs that were made with the same settings."""

from zenml.client import Client

from pipelines.outcome import outputs_of
from pipelines.place import Place
from pipelines.runs import RunRecord, load_runs, needed_before
from srpo.artifacts import Trained
from srpo.config import RunConfig
from srpo.control_words import control_words
from srpo.durable import mirror_of
from srpo.errors import ConfigError
from srpo.same_run import HOW
from srpo.start import CHAMPION

MADE_WITH: dict[str, set[str]] = {
    "weights": {"model", "reward", "rewards"},
    "prompts": {"model", "prompts", "images"},
}
MADE_WITH["trained"] = {"seed", "method", "preference", "align", "rollout", "train", "monitor"}.union(
    *MADE_WITH.values()
)
MADE_WITH["evaluated"] = MADE_WITH["trained"] | {"evaluation"}
"""Output -> sections of the config that it depends on."""


def earlier_outputs(place: Place, config: RunConfig, first: str, stack: str | None = None) -> dict[str, str]:
    """What a run that starts at `first` takes from the last run of its experiment, on its own stack, that has it all.

    Weights are fetched again where the held-out scores are others: what is in the store already costs nothing.
    """
    needed = list(needed_before(first))
    if not needed:
        return {}
    freed = []
    for record in (record for record in load_runs(place) if record.stack == stack):
        outputs = record.given | outputs_of(record)
        if same_origin(record, config, needed) and set(needed) <= set(outputs):
            if "trained" in needed and not _weights_are_left(record, outputs["trained"]):
                freed.append(record.name)
                continue
            anew = {"weights"} if record.config.evaluation.scores != config.evaluation.scores else set()
            return {name: outputs[name] for name in needed if name not in anew}
    raise ConfigError(
        f"--from {first} needs the results of the steps before it, and no run of experiment {config.name!r} in "
        f"{place.runs}{f' on {stack}' if stack else ''} made them all with these settings ({', '.join(needed)})"
        + (f", but {freed[0]}, whose weights were freed (`delete`, `gc`)" if freed else "")
        + "; run without --from"
    )


def _weights_are_left(record: RunRecord, artifact: str) -> bool:
    """Whether what a run has trained is still on this machine or in its copy: `delete` and `gc` free it."""
    trained: Trained = Client().get_artifact_version(artifact).load()
    return mirror_of(record.config.storage).holds(trained.transformer)


def same_origin(then: RunRecord, now: RunConfig, outputs: list[str]) -> bool:
    """Whether the settings that made these outputs are the same but for how, the content of a words file included.

    A run that starts from the champion goes on with what was trained from an earlier one.
    """
    if now.train.start == CHAMPION:
        now = now.model_copy(update={"train": now.train.model_copy(update={"start": then.config.train.start})})
    sections = {"name"}.union(*(MADE_WITH[name] for name in outputs))
    if "preference" in sections and then.words != control_words(now.preference).digest:
        return False
    before, after = (config.model_dump(include=sections, exclude=HOW) for config in (then.config, now))
    return before == after
