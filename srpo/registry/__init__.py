"""The MLflow model registry: versions by reference, with the aliases `challenger` (the newest) and `champion`.

A version is a manifest: where the base model and the aligned transformer lie, with their hashes, and how the model is
sampled. It is a thin pyfunc whose loader is this package, so no weights are copied and nothing is pickled:

    mlflow.pyfunc.load_model("models:/<name>@champion").predict(["a red circle on a blue background"])

The champion moves under a lease, by the gate or by hand, and every move is written down before it is made.
"""

from srpo.registry.champion import promote, rollback
from srpo.registry.history import CHALLENGER, CHAMPION, Move, that_happened
from srpo.registry.lookup import load_evaluation, load_manifest, load_report, registered_files, run_evaluation
from srpo.registry.manifest import Manifest, _load_pyfunc, sampling_of
from srpo.registry.registration import check_lease, register
from srpo.registry.retention import delete, refuse_aliases, surplus
from srpo.registry.version import GateResult, Version, champion_moves, find_version, holder, versions
