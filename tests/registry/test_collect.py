"""What `gc` and `delete` remove, and above all what they leave."""

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from zenml import save_artifact

from pipelines import collect
from pipelines.collect import delete_version, find_surplus
from pipelines.place import Place
from pipelines.runs import RunRecord, State
from pipelines.stacks import activate_local_stack
from srpo.alone import reading
from srpo.artifacts import FileEntry, PromptSet, PromptSets, Snapshot, Trained, Weights
from srpo.config import RunConfig
from srpo.errors import ConfigError
from srpo.evaluation.images import make_design
from srpo.evaluation.journal import ImageScores, ScoreJournal
from srpo.hub import snapshot
from srpo.hub.store import Store
from srpo.prompts import Prompt
from srpo.registry import find_version, promote, register, versions
from srpo.tracking import TrackedRun, open_run
from tests.registry.versions import write_report

pytestmark = pytest.mark.usefixtures("stack")  # ZenML's store, which keeps the manifests of steps
KEEP = 1


@pytest.fixture
def stack(place: Place) -> str:
    return activate_local_stack(place)


def sizes(place: Place) -> dict[Path, int]:
    """Every large file of a working folder."""
    files = [path for folder in (place.runs, place.embeddings) for path in folder.rglob("*") if path.is_file()]
    return {path: path.stat().st_size for path in files if path.suffix == ".safetensors"}


def write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))


def record(place: Place, name: str, state: State, given: dict[str, str]) -> RunRecord:
    tracked = open_run(place.mlflow_uri, place.mlflow_artifacts_uri, name, RunConfig(name="collected"))
    folder = str(place.runs / name)
    steps = ("download", "embed", "train", "evaluate", "register")
    return RunRecord(
        name=name,
        config=RunConfig(name="collected"),
        created=datetime.now(UTC),
        folder=folder,
        tracked=tracked,
        steps=steps,
        given=given,
        state=state,
    ).save()


def train(place: Place, name: str) -> Trained:
    """The files that training leaves, tiny."""
    folder = place.runs / name / "train"
    write(folder / "checkpoints" / "update-000001" / "transformer.safetensors", 1000)
    write(folder / "transformer" / "model.safetensors", 100)
    made = snapshot(folder / "transformer", name)
    return Trained(output_dir=str(folder), transformer=made, best_update=1, num_updates=1, seconds=1)


def embed(place: Place, name: str) -> PromptSets:
    write(place.embeddings / name / "shard.safetensors", 10)
    files = Snapshot(source=name, uri=str(place.embeddings / name), files=())
    prompts = PromptSet(snapshot=files, index="index.json", num_prompts=1, bytes_per_prompt=1)
    return PromptSets(train=prompts, held_out=prompts)


def finish(place: Place, name: str, prompts: PromptSets, given: dict[str, str]) -> Trained:
    """A whole run, registered."""
    trained = train(place, name)
    tracked = record(place, name, "done", given).tracked
    enter(place, trained, prompts, tracked)
    return trained


def enter(place: Place, trained: Trained, prompts: PromptSets, tracked: TrackedRun) -> None:
    report = write_report(Path(trained.output_dir).parent / "report.json", RunConfig(), None)
    evaluated = report.model_copy(update={"passed": False})
    base = Snapshot(source="base", uri="/nowhere/base", files=())
    register(RunConfig(), Weights(model=base, reward=base), prompts, trained, evaluated, tracked)


def keep(manifest: Trained | PromptSets, name: str) -> str:
    """The manifest as ZenML's artifact; its id."""
    return str(save_artifact(manifest, name).id)


@pytest.fixture
def filled(own_place: Place) -> Place:
    """Four runs with versions 1 to 4 (champion 2, challenger 4), three stores of embeddings.

    An unfinished run evaluates what the third has trained; the store `kept` is the challenger's too.
    """
    prompts = {name: embed(own_place, name) for name in ("old", "kept", "forgotten")}
    given = {name: {"prompts": keep(sets, f"prompts-{name}")} for name, sets in prompts.items()}
    trained = [
        finish(own_place, f"run-{number}", prompts[store], given[store])
        for number, store in enumerate(("old", "kept", "old", "kept"), start=1)
    ]
    promote(own_place.mlflow_uri, "srpo/2", "sharper")
    record(own_place, "unfinished", "failed", given["kept"] | {"trained": keep(trained[2], "trained-3")})
    return own_place


def folders(place: Place, *names: str) -> set[Path]:
    return {place.runs / name / "train" / part for name in names for part in ("checkpoints", "transformer")}


def left(place: Place) -> list[str]:
    return [entry.version for entry in versions(place.mlflow_uri)]


def test_a_dry_run_lists_exactly_what_then_goes(filled: Place) -> None:
    before, listed = sizes(filled), find_surplus(filled, KEEP)
    assert sizes(filled) == before and left(filled) == ["4", "3", "2", "1"]
    done = collect.collect(filled, KEEP)
    assert done == listed
    assert [version.version for version in done.versions] == ["3", "1"]
    assert left(filled) == ["4", "2"]
    stores = {filled.embeddings / name for name in ("old", "forgotten")}
    assert {folder.path for folder in done.folders} == folders(filled, "run-1") | stores
    gone = {path: size for path, size in before.items() if path not in sizes(filled)}
    assert all(any(path.is_relative_to(folder.path) for folder in done.folders) for path in gone)
    assert sum(gone.values()) == done.size == 1120
    assert not any(folder.path.exists() for folder in done.folders)
    assert find_surplus(filled, KEEP) == collect.Surplus([], [])
    # what the unfinished run needs goes when that run has gone
    shutil.rmtree(filled.runs / "unfinished")
    assert {folder.path for folder in collect.collect(filled, KEEP).folders} == folders(filled, "run-3")


@pytest.mark.parametrize("step", ["rename", "rmtree"])
def test_a_crash_leaves_nothing_that_the_next_call_does_not_find(
    filled: Place, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, module = find_surplus(filled, KEEP), Path if step == "rename" else shutil
    as_ever = getattr(module, step)

    def crash(path: Path, *arguments: object, **options: object) -> None:
        if Path(path).is_relative_to(filled.root) and Path(path).exists():
            raise KeyboardInterrupt
        as_ever(path, *arguments, **options)

    with monkeypatch.context() as broken:
        broken.setattr(module, step, crash)
        with pytest.raises(KeyboardInterrupt):
            collect.collect(filled, KEEP)
    assert left(filled) == ["4", "2"]
    again = collect.collect(filled, KEEP)
    assert again.size == expected.size
    assert not any(folder.path.exists() for folder in expected.folders)
    assert not list(filled.root.rglob("*.removed"))


def test_what_may_still_be_needed_stays(filled: Place, store: str) -> None:
    """By a version made of another run's weights (`run --from evaluate`), and by a run that has not embedded yet."""
    folder = filled.runs / "run-1" / "train"
    made = snapshot(folder / "transformer", "run-1")
    trained = Trained(output_dir=str(folder), transformer=made, best_update=1, num_updates=1, seconds=1)
    enter(filled, trained, embed(filled, "kept"), record(filled, "run-5", "done", {}).tracked)
    record(filled, "just-started", "failed", {})
    assert {found.path for found in find_surplus(filled, 2).folders} == {folder / "checkpoints"}
    # a store that was lost knows none of its runs, and frees nothing of them
    shutil.rmtree(filled.runs / "just-started")
    shutil.copy(Path(store.removeprefix("sqlite:///")).with_name("empty.db"), filled.mlflow_database)
    assert {found.path for found in find_surplus(filled, 2).folders} == {filled.embeddings / "forgotten"}


def test_delete_frees_the_weights_of_that_run_alone(filled: Place) -> None:
    before, alien = sizes(filled), filled.runs / "alien" / "run.json"
    write(alien, 3)
    for remove in (lambda version: delete_version(filled, version), lambda _: collect.collect(filled, KEEP)):
        with pytest.raises(ConfigError, match="alien in .* cannot be read"):
            remove(find_version(filled.mlflow_uri, "srpo/1"))
    assert sizes(filled) == before and len(left(filled)) == 4
    alien.unlink()
    with pytest.raises(ConfigError, match="is champion and stays"):
        delete_version(filled, find_version(filled.mlflow_uri, "srpo/2"))
    done = delete_version(filled, find_version(filled.mlflow_uri, "srpo/1"))
    assert {folder.path for folder in done.folders} == folders(filled, "run-1")
    assert left(filled) == ["4", "3", "2"]
    assert (filled.embeddings / "forgotten").exists()


def test_what_an_unfinished_run_starts_from_stays(filled: Place) -> None:
    """The version whose weights it trains on, and the training whose budget had ended."""
    starting = record(filled, "starting", "interrupted", {})
    config = starting.config.model_copy(
        update={"train": starting.config.train.model_copy(update={"start": "models:/srpo/1"})}
    )
    starting = starting.changed(config=config, continues="run-3")
    assert {version.version for version in find_surplus(filled, KEEP).versions} == {"3"}
    assert not {folder.path for folder in find_surplus(filled, KEEP).folders} & folders(filled, "run-1", "run-3")
    with pytest.raises(ConfigError, match="run starting starts from srpo/1 and is not done"):
        delete_version(filled, find_version(filled.mlflow_uri, "srpo/1"))
    starting.changed(state="done")
    assert {version.version for version in find_surplus(filled, KEEP).versions} == {"1", "3"}


def test_embeddings_stay_while_an_evaluation_reads_some(filled: Place) -> None:
    """It may be at those of a store that no run names."""
    with reading(filled.embeddings), reading(filled.embeddings):
        assert {found.path for found in find_surplus(filled, KEEP).folders} == folders(filled, "run-1")
    assert filled.embeddings / "forgotten" in {found.path for found in find_surplus(filled, KEEP).folders}


def test_fetched_weights_go_that_nothing_names_and_nothing_has_used_for_long(
    filled: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file stays while any folder that stays links to it; a store that other folders may use is left alone."""
    store, folder = Store(), filled.root / "store"
    monkeypatch.setattr(store, "root", folder)
    files = {name: FileEntry(path=f"{name}.safetensors", size=10, sha256=name * 64) for name in "abc"}
    trees = {
        names: store.link(Snapshot(source=f"hf://{names}", uri="", files=tuple(files[name] for name in names)))
        for names in ("ab", "bc", "a")
    }
    for name in (*(f"files/{file.sha256}" for file in files.values()), "partial/broken"):
        write(folder / name, 10)
    for path in (*folder.glob("files/*"), *folder.glob("partial/*"), *folder.glob("trees/*")):
        os.utime(path, (0, 0))
    store.link(trees["a"])  # used now
    weights = Weights(model=trees["ab"], reward=trees["ab"])
    record(filled, "resumable", "failed", {"weights": keep(weights, "weights")})
    expected = {trees["bc"].path, folder / "files" / ("c" * 64), folder / "partial" / "broken"}
    assert not any(found.path.is_relative_to(folder) for found in find_surplus(filled, KEEP).folders)
    monkeypatch.setenv("SRPO_STORE", str(folder))
    listed = find_surplus(filled, KEEP)
    assert {found.path for found in listed.folders if found.path.is_relative_to(folder)} == expected
    assert collect.collect(filled, KEEP) == listed
    assert not any(path.exists() for path in expected)
    assert all((trees[names].path / f"{name}.safetensors").is_file() for names in ("ab", "a") for name in names)
    assert find_surplus(filled, KEEP) == collect.Surplus([], [])


def test_pictures_and_scores_that_no_evaluation_has_used_for_long_go(filled: Place) -> None:
    journal, cells = ScoreJournal(filled.scores), make_design([Prompt("a dog")], [0], 2, seed=0)
    for model in ("old", "used"):
        for cell in cells:
            journal.gallery(model).add(cell, torch.zeros(3, 8, 8))
        journal.add(model, "reward", {key: ImageScores({"reward": 1.0}, b"") for key in cells})
        os.utime(journal.gallery(model).folder, (0, 0))
    assert len(journal.find("used", "reward", cells)) == 2
    found = [folder.path for folder in collect.collect(filled, KEEP).folders if filled.scores in folder.path.parents]
    assert found == [journal.gallery("old").folder]
    assert not found[0].exists()
    assert (len(journal.rows("old")), len(journal.rows("used"))) == (0, 2)


def test_old_comparisons_and_errors_go_unless_people_have_voted(filled: Place) -> None:
    """`compare` makes a comparison again, but not the study that was merged into it."""
    (voted := filled.comparisons / "a--d").mkdir(parents=True)
    (voted / "report.json").write_text('{"study": {"questions": []}}')
    os.utime(voted, (0, 0))
    comparisons = [filled.comparisons / name for name in ("a--b", "a--c")]
    errors = [filled.logs / f"error-{day}.txt" for day in ("20260101-000000-0", "20260102-000000-0")]
    for path in (*(folder / "report.html" for folder in comparisons), *errors):
        write(path, 10)
    for path in (comparisons[0], errors[0]):
        os.utime(path, (0, 0))
    found = {folder.path for folder in collect.collect(filled, KEEP).folders}
    assert {comparisons[0], errors[0]} <= found and not {comparisons[1], errors[1]} & found
    assert [path.exists() for path in (*comparisons, *errors, voted)] == [False, True, False, True, True]
