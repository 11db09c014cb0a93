"""The pipeline with a durable copy: what the steps made is whole in S3, where their manifests say."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipelines.place import Place
from srpo.artifacts import Trained, TrainJob
from srpo.config import StorageConfig
from srpo.durable import OWN_COPIES, Mirror
from srpo.embedding import embed
from srpo.errors import EXIT_RETRY, TrainingStoppedError
from srpo.hub import snapshot
from srpo.launch import ALONE
from srpo.outbox import FILE
from srpo.record import read_journal
from srpo.tracking import TrackedRun
from tests.conftest import CONFIG, SHORT
from tests.durable.conftest import REMOTE
from tests.infra.loopback import NOBODY
from tests.jobs import place as in_folder

COMMAND = [sys.executable, str(CONFIG.parent.parent / "run_pipeline.py"), "run"]


def settings(*changes: str) -> list[str]:
    chosen = (*SHORT, f"storage.remote={REMOTE}", *changes)
    return ["--config", str(CONFIG), *(part for setting in chosen for part in ("--set", setting))]


def run(folder: Path, *options: str) -> None:
    done = subprocess.run([*COMMAND, *options], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def files(root: Path, *folders: Path) -> dict[str, bytes]:
    """Content of what steps hand on; checkpoints, hidden files and locks are none of it."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.name != "lock" and "checkpoints" not in path.parts
    }


@pytest.mark.usefixtures("bucket")
def test_handing_over_on_an_empty_disk_keeps_what_mlflow_has_not_taken(job: TrainJob, place: Place) -> None:
    from zenml import pipeline

    from pipelines.stacks import activate_local_stack
    from steps.train_nodes import CAUSE, GIVEN_UP, given_up, hand_over

    folder, mirror = place.runs / "over-nodes" / "train", Mirror(REMOTE, place.root)
    folder.mkdir(parents=True)
    waiting = '{"kind": "metrics", "metrics": {"train/loss": 1.0}, "step": 1, "time": 0}\n'
    (folder / FILE).write_text(waiting)
    mirror.push(folder, OWN_COPIES)
    shutil.rmtree(folder)
    (said := folder.with_name(GIVEN_UP)).mkdir()
    (said / CAUSE).write_text("an earlier attempt's")
    mirror.push(said)
    config = job.config.model_copy(update={"storage": StorageConfig(remote=REMOTE)})
    activate_local_stack(place)
    pipeline(lambda: hand_over(config, job.weights, job.prompts, str(folder), TrackedRun(uri=NOBODY, run_id="1")))()
    shutil.rmtree(folder)
    assert mirror.fetch(folder)
    assert (folder / FILE).read_text().startswith(waiting)
    assert given_up(mirror, folder) is None
    shutil.rmtree(folder.parent)  # which is no run


@pytest.mark.usefixtures("bucket")
def test_nodes_that_give_up_end_well_and_the_step_after_them_ends_with_the_cause(
    job: TrainJob, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZenML would start them again otherwise; what might go better another time still ends badly.

    What they began from is gone, and not asked for: there is a checkpoint.
    """
    from steps import train_nodes

    folder, mirror = place.runs / "given-up" / "train", Mirror(REMOTE, place.root)
    (checkpoint := folder / "checkpoints" / "update-000001").mkdir(parents=True)
    mirror.push(checkpoint)
    begun = in_folder(job, folder, start="gone")
    handed = train_nodes.HandedOver(job=begun, tracked=TrackedRun(uri=NOBODY, run_id="1"), stack="")
    (folder / train_nodes.HANDED_OVER).write_text(handed.model_dump_json())
    mirror.push(folder)
    ends = iter([RuntimeError("killed"), TrainingStoppedError("loss not finite"), RuntimeError("the others are gone")])

    def launch_node(*_: object) -> None:
        raise next(ends)

    monkeypatch.setattr(train_nodes, "launch_node", launch_node)
    monkeypatch.setattr(train_nodes, "nodes_here", lambda: ALONE)
    monkeypatch.setattr(train_nodes, "_log_in", lambda _: None)
    monkeypatch.setattr(train_nodes, "own_call", lambda _: nullcontext())
    monkeypatch.setattr(train_nodes, "SECONDS_TO_SAY", 0.0)
    storage = StorageConfig(remote=REMOTE)
    with pytest.raises(RuntimeError, match="killed"):
        train_nodes.main(storage, str(folder))
    train_nodes.main(storage, str(folder))
    with train_nodes.giving_up(mirror, folder):
        launch_node()
    train_nodes.main(storage, str(folder))  # starts nothing: there is no fourth end
    config = job.config.model_copy(update={"storage": storage})
    with pytest.raises(TrainingStoppedError, match="loss not finite"):
        train_nodes.collect.entrypoint(config, str(folder))
    shutil.rmtree(folder.parent)  # which is no run


@pytest.mark.usefixtures("bucket")
def test_taking_the_nodes_result_brings_no_weights(
    job: TrainJob, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from steps import train_nodes

    folder, mirror = place.runs / "taken" / "train", Mirror(REMOTE, place.root)
    (folder / "transformer").mkdir(parents=True)
    (folder / "transformer" / "weights").write_text("large")
    made = snapshot(folder / "transformer", "update 2")
    trained = Trained(output_dir=str(folder), transformer=made, best_update=2, num_updates=2, seconds=1.0)
    (folder / "result.json").write_text(trained.model_dump_json())
    mirror.push(folder)
    shutil.rmtree(folder)
    monkeypatch.setattr(train_nodes, "own_call", lambda _: nullcontext())
    config = job.config.model_copy(update={"storage": StorageConfig(remote=REMOTE)})
    assert train_nodes.collect.entrypoint(config, str(folder)) == trained
    assert [path.name for path in folder.iterdir()] == ["result.json"]
    shutil.rmtree(folder.parent)  # which is no run


@pytest.mark.usefixtures("bucket")
def test_embeddings_that_others_have_made_are_brought_where_this_run_has_their_texts(
    job: TrainJob, node: Callable[[str], Mirror], tmp_path: Path
) -> None:
    (other := tmp_path / "other.txt").write_text("a green sea")
    of_others = job.config.prompts.model_copy(update={"train": str(other)})
    made = {}
    for name, prompts in (("first", job.config.prompts), ("second", of_others), ("third", of_others)):
        mirror = node(name)
        folder = mirror.root / "embeddings" / "model"
        brought = partial(mirror.fetch, folder, None)
        made[name] = embed(job.config.model, prompts, None, job.weights, folder, brought)
        mirror.push(folder, shared=True)
    foreign, own = ({file.path for file in made[name].train.snapshot.files} for name in ("first", "third"))
    store = made["third"].train.snapshot.path
    assert own & foreign == set() and own <= {path.name for path in store.iterdir()}
    assert not [name for name in foreign if name.endswith(".safetensors") and (store / name).exists()]
    assert made["third"].held_out.snapshot.files == made["first"].held_out.snapshot.files, "encoded once"


@pytest.mark.slow
def test_the_last_steps_run_on_an_emptied_disk(bucket: Any, tmp_path: Path) -> None:
    """Embeddings and training are removed; evaluation and registration find them in the copy."""
    run(tmp_path, *settings(), "--until", "train")
    root = tmp_path / ".srpo"
    (record,) = (root / "runs").iterdir()
    made = (root / "embeddings", record / "train")
    before = files(root, *made)
    assert any("transformer" in name for name in before)
    for folder in made:
        shutil.rmtree(folder)
    run(tmp_path, *settings(), "--from", "evaluate")
    after = files(root, *made)
    assert after == {name: content for name, content in before.items() if name in after}
    assert {name for name in before if "/train/" in name} <= set(after)
    (second,) = {path for path in (root / "runs").iterdir() if path != record}
    report = Mirror(REMOTE, root).manifest(second / "evaluation")
    assert report and {"report.json", "report.html"} <= {entry.path for entry in report.files}
    for folder in made:
        shutil.rmtree(folder)
    run(tmp_path, *settings(), "--from", "register")
    assert not files(root, *made), "a version is made of hashes"


@pytest.mark.slow
@pytest.mark.usefixtures("bucket")
def test_sigterm_to_the_command_asks_for_a_retry_and_resume_ends_the_run(tmp_path: Path) -> None:
    """The signal reaches the training below two launchers, whose processes outlive it until the checkpoint is sent."""
    command = [*COMMAND, *settings("train.num_updates=40"), "--until", "train"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None and not any(map(read_journal, tmp_path.glob(".srpo/runs/*/train/metrics.jsonl"))):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == EXIT_RETRY, output[-2000:]
    (record,) = (tmp_path / ".srpo" / "runs").iterdir()
    assert json.loads((record / "run.json").read_text())["state"] == "interrupted"
    done = [entry["update"] for entry in read_journal(record / "train" / "metrics.jsonl")]
    assert 1 <= len(done) < 40
    shutil.rmtree(record / "train")
    run(tmp_path, "--resume", record.name)
    again = [entry["update"] for entry in read_journal(record / "train" / "metrics.jsonl")]
    assert again == list(range(1, 41))
