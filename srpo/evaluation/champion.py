"""The registry's champion as a third contender, where it can be: a model on the same base.

It is drawn as the candidate is, whatever settings it was registered with: the question is which of the two is better
under those of now, and a change of them must not keep a champion for ever. One trained in fp32 stays as far from the
base where the candidate's weights are bf16, because it is rounded stochastically (`srpo.rounding`).
"""

from dataclasses import dataclass

from srpo.artifacts import Snapshot, Trained, Weights
from srpo.config import RunConfig
from srpo.errors import ConfigError, DiskFullError, UnreachableError
from srpo.evaluation.contender import Contender, drawn_alike
from srpo.registry import Manifest, holder, load_manifest
from srpo.report.schema import CHAMPION, Undrawn


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
    champion = holder(uri, config.registry.model_name, CHAMPION)
    if champion is None:
        return None
    reference = champion.uri
    try:
        manifest = load_manifest(uri, reference)
    except ConfigError as error:
        return Champion(reference, None, str(error))
    transformer = None
    if manifest.transformer.sha256 == trained.transformer.sha256:
        problem = "it has the very same weights"
    elif (manifest.base.sha256, manifest.model.family) != (weights.model.sha256, config.model.family):
        problem = "its base is another model"
    else:
        transformer, problem = _files(manifest)
    if problem:
        return Champion(reference, None, problem)
    contender = Contender(
        label=CHAMPION,
        reference=reference,
        model=drawn_alike(manifest.model, config).model_copy(update={"weights": config.model.weights}),
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
