"""Step 4: base, candidate and champion, and the verdict."""

from pathlib import Path
from typing import Annotated

from zenml import step
from zenml.types import HTMLString

from srpo.artifacts import Evaluated, PromptSets, Trained, Weights
from srpo.config import RunConfig
from srpo.durable import mirror_of
from srpo.evaluation.progress import terminal_progress
from srpo.evaluation.run import evaluate as evaluate_model
from srpo.tracking import TrackedRun, Tracker
from srpo.weights import bring
from steps.own_call import own_call


@step(enable_cache=False)
def evaluate(
    config: RunConfig,
    weights: Weights,
    prompts: PromptSets,
    trained: Trained,
    output_dir: str,
    scores_dir: str,
    tracked: TrackedRun,
) -> tuple[Annotated[Evaluated, "evaluated"], Annotated[HTMLString, "report"]]:
    """The report is the second output, so that ZenML's dashboard shows it."""
    with own_call("evaluate"), tracked.in_environment(), terminal_progress() as progress:
        mirror = mirror_of(config.storage)
        weights, trained = bring(mirror.here(weights)), mirror.here(trained)
        prompts = prompts.model_copy(update={"held_out": mirror.here(prompts.held_out)})  # others are known by hash
        training, folder = Path(trained.output_dir), mirror.local(output_dir)
        mirror.fetch(training)
        own = training.parent == folder.parent
        late = Tracker(tracked if own else None, training)  # sends meanwhile what MLflow has not taken yet
        scores = mirror.local(scores_dir)
        evaluated = evaluate_model(config, weights, prompts, trained, folder, progress, scores, tracked.uri)
        late.close(config.storage.max_wait_s)
        mirror.push(folder)
    return evaluated, HTMLString(Path(evaluated.report_html).read_text(encoding="utf-8"))
