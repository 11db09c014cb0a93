"""The registry's champion as a third contender, where it can be: the same base, drawn at the same size and sampling."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import ValidationError

from srpo.artifacts import Snapshot, Trained, Weights
from srpo.config import RunConfig
from srpo.errors import ConfigError, DiskFullError, UnreachableError
from srpo.evaluation.contender import Contender
from srpo.evaluation.schema import CHAMPION, Undrawn
from srpo.tracking import is_unanswered

if TYPE_CHECKING:
    from srpo.registry import Manifest

SAME = ("family", "height", "width", "max_sequence_length")
"""Settings of a model that two images must share to be compared."""


@dataclass(frozen=True)
class Champion:
    """The version that a candidate has to beat."""

    reference: str
    """`models:/name/version`."""
    contender: Contender | None
    """None if it is not drawn."""
    problem: str
    """Why not; empty if it is."""

    @property
    def compared(self) -> str | None:
        """Its reference, if it is drawn."""
        return self.reference if self.contender else None

    @property
    def undrawn(self) -> Undrawn | None:
        """What the report says of it if it is not drawn."""
        return None if self.contender else Undrawn(reference=self.reference, problem=self.problem)


def find_champion(config: RunConfig, weights: Weights, trained: Trained, uri: str) -> Champion | None:
    """The champion of the run's registered model in an MLflow store, if there is one."""
    from mlflow.exceptions import MlflowException

    from srpo.registry import holder, load_manifest  # it reads this package's schema

    champion = holder(uri, config.registry.model_name, CHAMPION)
    if champion is None:
        return None
    reference = champion.uri
    try:
        manifest = load_manifest(uri, reference)
    except (MlflowException, ValidationError) as error:
        if is_unanswered(error):
            raise
        return Champion(reference, None, f"its manifest cannot be read ({' '.join(str(error).split())})")
    ours = config.model.model_dump(include=set(SAME)), config.evaluation.num_steps, config.evaluation.guidance
    sampling = manifest.sampling
    theirs = manifest.model.model_dump(include=set(SAME)), sampling.num_steps, sampling.guidance
    transformer = None
    if manifest.transformer.sha256 == trained.transformer.sha256:
        problem = "it has the very same weights"
    elif manifest.base.sha256 != weights.model.sha256:
        problem = "its base is another model"
    elif ours != theirs:
        problem = "it is drawn at another size, or with other steps or guidance"
    else:
        transformer, problem = _files(manifest)
    if problem:
        return Champion(reference, None, problem)
    contender = Contender(
        label=CHAMPION,
        reference=reference,
        model=manifest.model,
        base=weights.model,
        transformer=transformer,
    )
    return Champion(reference, contender, "")


def _files(manifest: "Manifest") -> tuple[Snapshot | None, str]:
    """The champion's files on this machine, or what is wrong with them. Raises what may pass."""
    try:
        return manifest.transformer_here(), ""
    except (UnreachableError, DiskFullError):
        raise
    except (ConfigError, OSError) as error:
        return None, f"its files cannot be read ({error})"
