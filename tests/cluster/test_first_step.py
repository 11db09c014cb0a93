"""The shortest run in a pod, on real servers; whole runs are slow (`test_end_to_end.py`, `test_pipeline.py`)."""

import json

from tests.cluster.site import ROOT, Site, settings

RUN = ["--config", str(ROOT / "configs/shapes.yaml"), *settings("name=first"), "--stack", "kubernetes"]


def test_a_step_runs_in_a_pod_and_its_result_is_here(kubernetes: Site) -> None:
    code, output = kubernetes.call("run", *RUN, "--until", "download")
    assert code == 0, output
    (pod,) = kubernetes.cluster.pods("download")
    assert pod["status"]["phase"] == "Succeeded"
    code, shown = kubernetes.call("status", "--json", "--stack", "kubernetes")
    assert code == 0, shown
    (run,) = json.loads(shown[shown.index("{") :])["runs"]
    assert (run["name"].rpartition("-")[0].rpartition("-")[0], run["state"]) == ("first", "done")
