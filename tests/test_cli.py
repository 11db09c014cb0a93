"""The command line as people use it: help, plans, pictures, states, exit codes, Ctrl-C."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from pipelines.commands import runs
from pipelines.commands.common import load
from pipelines.outcome import Outcome
from pipelines.place import Place
from pipelines.runs import RunRecord, State, load_run, load_runs
from pipelines.status import show_status, status_json
from pipelines.summary import show_outcome, show_plan
from srpo.config import RunConfig
from srpo.errors import ConfigError
from srpo.plan import Check, Plan
from srpo.reference import source_of
from srpo.shapes.render import HELD_OUT
from srpo.tracking import TrackedRun
from tests.conftest import CONFIG, SHORT
from tests.infra.loopback import NOBODY
from tests.processes import heed_ctrl_c
from tests.runs import call

ROOT = Path(__file__).parent.parent
HARDWARE = CONFIG.parent / "hardware"
SETTINGS = [argument for override in SHORT for argument in ("--set", override)]


def test_what_a_run_file_warns_of_is_no_part_of_the_output(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = ROOT / "configs" / "flux_hpsv2.yaml"
    load([recipe], ())
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("warning: evaluation.gate and evaluation.champion_gate: nothing decides but what is")
    for shipped in (None, [recipe, ROOT / "configs" / "scores" / "held_out.yaml"]):
        load(shipped, ())
    assert capsys.readouterr().err == ""


def test_help_names_every_command_and_loads_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--help") == 0
    shown = capsys.readouterr().out
    assert all(
        command in shown for command in ("run", "plan", "generate", "words", "evaluate", "status", "ui", "doctor")
    )
    code = "import run_pipeline, sys; sys.exit(bool({'torch', 'zenml', 'mlflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(("command", "usage"), [("sync", "[RUN]"), ("compare", "{A}..."), ("evaluate", "{MODEL}...")])
def test_help_puts_each_argument_into_brackets_once(
    command: str, usage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(command, "--help") == 0
    assert f"{command} [OPTIONS] {usage} " in capsys.readouterr().out


def test_a_plan_shows_the_settings_and_starts_nothing(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(place.runs.glob("*"))
    assert call("plan", "--config", str(CONFIG), "--set", "seed=7", "--until", "train") == 0
    shown = capsys.readouterr().out
    assert "seed: 7" in shown
    assert "embeddings of all prompts" in shown and "model registry" not in shown
    assert set(place.runs.glob("*")) == before


def test_a_plan_that_starts_in_the_middle_says_no_where_the_run_would(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("plan", "--config", str(CONFIG), "--set", "name=unheard-of", "--from", "evaluate") == 42
    assert "--from evaluate needs the results of the steps before it" in capsys.readouterr().err


def test_what_is_shown_of_a_plan_is_as_it_stands(tmp_path: Path) -> None:
    shown = Console(file=StringIO(), width=200)
    finding = "/data/flux [dev]/x: [/b] whole"
    checks = (Check(subject="model", finding=finding),)
    show_plan(shown, Plan(config=RunConfig(), steps=("train",), checks=checks, disk_needed=1, disk_free=1))
    assert isinstance(shown.file, StringIO)
    assert finding in shown.file.getvalue()


@pytest.mark.parametrize("storage", ["s3://bucket/srpo", None])
@pytest.mark.parametrize("options", [(), ("--if-new-data",)])
def test_a_run_in_pods_asks_for_no_disk_here(
    place: Place, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], storage: str | None
) -> None:
    """`storage`: the stack's, which says whether its steps run in pods; the stack `local` runs them here."""
    from pipelines import elsewhere, execute, new_data, stacks

    planned: list[bool] = []

    def new_run(_: Place, plan: Plan, stack: str | None) -> None:
        planned.append(plan.disk_free is None)

    monkeypatch.setattr(stacks, "activate", lambda *_: stacks.ActiveStack("", None, storage))
    monkeypatch.setattr(elsewhere, "at_work", lambda *_: None)
    monkeypatch.setattr(new_data, "look", lambda *_: new_data.Look(champion=None, changed=()))
    monkeypatch.setattr(execute, "new_run", new_run)
    monkeypatch.setattr(runs, "_execute", lambda _: None)
    monkeypatch.setattr("pipelines.notify.tell", lambda *_: None)
    assert call("run", *options, "--stack", "some", "--config", str(CONFIG)) == 0
    assert planned == [storage is not None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["plan", "--set", "train.learning_rat=1"],
            "+ --set: train.learning_rat: unknown key; `settings` lists",
        ),
        (["plan", "--set", "train.num_updates=-1"], "train.num_updates"),
        (["plan", "--set", "align.window=[0,25]"], "sigma 1"),
        (["plan", "--set", "preference.positive=[]"], "preference.positive"),
        (["plan", "--set", "schema_version=99"], "schema_version"),
        (["plan", "--set", "preference.words_file=gone.csv"], "gone.csv cannot be read"),
        (["plan", "--gpu", "5000"], "--gpu 5000: not in the list"),
        (["settings", "zorvex"], "no setting's name holds 'zorvex'"),
        (["plan", "--config", "nowhere.yaml"], "no config file at nowhere.yaml"),
        (["plan", "--config", "."], "cannot be read as a run file"),
        (["run", "--nosuch"], "--nosuch"),
        (["run", "--until"], "--until"),
        (["nosuch"], "nosuch"),
        (["generate", "--weights", "fp64"], "fp64"),
        (["export", "builtin:shapes", "--to", "x", "--format", "gguf"], "gguf"),
        (["compare", "a", "b", "--on", "all"], "'all'"),
        (["run", "--until", "trian"], "no such step; choose from download"),
        (["run", "--from", "train", "--until", "embed"], "--from train comes after --until embed"),
        (["run", "--resume", "nobody"], "no run named 'nobody'"),
        (["run", "--resume", "x", "--set", "seed=1"], "--resume goes on with the run's own settings"),
        (["generate", "--model", "nope", "--prompts", "a ring", "--out", "x"], "nope"),
        (["generate", "--model", "nope", "--prompts", "a ring", "--out", "/dev/null/x"], "/dev/null is no folder"),
        (["generate", "--model", "builtin:shapes", "--prompts", "gone.txt", "--out", "x"], "no file at gone.txt"),
        (["generate", "--model", "builtin:shapes", "--prompts", "gone.cvs", "--out", "x"], "no file at gone.cvs"),
        (["generate", "--model", "builtin:shapes", "--prompts", "texts/gone", "--out", "x"], "no file at texts/gone"),
        (["evaluate", "builtin:shapes", ".", "--out", "x"], ". is no embedded model, but without --config"),
        (["words", "--set", "model.source=hf://a/b"], "hf://a/b is no embedded model, but without --config"),
        (
            ["generate", "--model", "builtin:shapes", "--prompts", "a ring", "--out", "x", "--guidance", "-1"],
            "--guidance -1: give a number from 0 on, or null",
        ),
        (
            ["generate", "--model", "builtin:shapes", "--prompts", "a ring", "--out", "x", "--guidance", "inf"],
            "--guidance inf: give a number from 0 on, or null",
        ),
        (["evaluate", "builtin:shapes", "--prompts", "gone.txt", "--out", "x"], "no prompt file at gone.txt"),
        (["evaluate", "builtin:shapes", "nobody@champion", "--out", "x"], "nobody@champion"),
        (["export", str(HARDWARE), "--to", "x"], f"error: {HARDWARE} is no whole diffusers folder"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_exit_code_42(
    arguments: list[str], message: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*arguments) == 42
    problem = capsys.readouterr().err
    assert message in problem
    assert "Traceback" not in problem


def test_a_job_trains_without_the_pipeline(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The printed command, typed as it stands; it trains what the pipeline would have trained."""
    folder, goes_on_as = tmp_path / "job", []
    monkeypatch.setattr("srpo.start.pinned", lambda config, uri, earlier: goes_on_as.append(earlier) or config)
    make = "job", "--config", str(CONFIG), "--out", str(folder), *SETTINGS
    assert call(*make) == 0
    capsys.readouterr()
    assert call(*make) == 0
    command = shlex.split(capsys.readouterr().out)
    assert command == [sys.executable, "-m", "srpo.train", str(folder / "job.json")]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=120)
    assert json.loads((folder / "result.json").read_text())["num_updates"] == 2
    assert call(*make) == 0
    assert [bool(before) for before in goes_on_as] == [False, False, True], "once it has a checkpoint"


@pytest.mark.parametrize(("request_", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_request_to_end_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, place: Place, request_: signal.Signals, code: int
) -> None:
    monkeypatch.setattr("srpo.doctor.examine", lambda *_: os.kill(os.getpid(), request_) or time.sleep(5) or [])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored by what was started in the background
    try:
        assert call("doctor") == code
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_run_that_is_told_to_end_outside_training_is_to_be_tried_again(
    finished: Outcome, monkeypatch: pytest.MonkeyPatch, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """As by a scheduler, in the middle of its evaluation."""
    monkeypatch.setattr("steps.evaluate.evaluate_model", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert call("run", "--config", str(CONFIG), *SETTINGS, "--from", "evaluate", "--until", "evaluate") == 75
    (newest, *_) = load_runs(place)
    assert newest.state == "interrupted"
    assert f"run --resume {newest.name}" in " ".join(capsys.readouterr().out.split())


def test_a_zenml_server_that_is_away_is_to_be_tried_again(
    place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from zenml.zen_stores import rest_zen_store

    def ask(_: object) -> None:
        rest_zen_store.RestZenStore(config=rest_zen_store.RestZenStoreConfiguration(url=NOBODY))

    monkeypatch.setattr(rest_zen_store, "Retry", lambda **_: 0)
    monkeypatch.setattr("run_pipeline.app", ask)
    before = set(place.logs.glob("error-*"))
    assert call("status") == 75
    assert capsys.readouterr().err.startswith("unreachable: ZenML's server does not answer; nothing is lost: ")
    assert set(place.logs.glob("error-*")) == before


def test_an_unexpected_error_leaves_its_traceback_in_a_log(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("the cable was cut")

    monkeypatch.setattr("srpo.doctor.examine", fail)
    assert call("doctor") == 1
    problem = capsys.readouterr().err
    log = max(place.logs.glob("error-*"))
    assert str(log) in problem.replace("\n", "")
    assert "the cable was cut" in problem
    assert "Traceback" in log.read_text()


def test_doctor_reports_machine_packages_and_stores_in_one_block(
    finished: Outcome, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("doctor") == 0
    facts = dict(line.strip().split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert {"torch", "cuda", "disk", "memory", "cores", "port", "mlflow", "zenml", "C compiler"} <= set(facts)
    assert {"peft", "bitsandbytes", "torchao", "triton"} <= set(facts)
    assert facts["MLflow store"].startswith("ok")
    assert facts["ZenML store"].startswith("ok")


def test_words_tells_a_word_of_the_embedded_reward_from_a_made_up_one(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--words", "Bright", "--against", "Zorvex", "--num-prompts", "8", "--config", str(CONFIG)]
    assert call("words", *options, "--json") == 0
    printed = capsys.readouterr()
    reports = json.loads(printed.out)
    assert printed.err.startswith("pictures: 0 of 16\n"), "said before any is drawn: plain ones, and those of Zorvex"
    assert "16/16" in printed.err
    assert {report["word"]: report["verdict"] for report in reports} == {"Bright": "known", "Zorvex": "unknown"}
    assert [report["images"] for report in reports] == ["rendered", "drawn"]
    assert all(0 < report["distance"] < 2 for report in reports)
    assert call("words", "--words", "Bright,", "--config", str(CONFIG)) == 42
    assert "different and not blank" in capsys.readouterr().err


def test_an_outcome_proposes_a_picture_of_one_of_its_own_held_out_prompts(finished: Outcome) -> None:
    shown = Console(file=StringIO(), width=200)
    show_outcome(shown, finished)
    assert isinstance(shown.file, StringIO)
    (line,) = (line for line in shown.file.getvalue().splitlines() if "generate --model" in line)
    words = shlex.split(line)
    assert words[words.index("--prompts") + 1] in {content.caption for content in HELD_OUT}
    assert words[-2:] == ["--out", f"pictures/{finished.record.name}"]


def test_status_lists_runs_and_versions(finished: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("status") == 0
    shown = capsys.readouterr().out
    assert finished.record.name in shown
    assert "done" in shown
    assert "challenger" in shown


def test_a_registry_is_asked_with_its_own_login(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not with that of the stack whose run was asked after: the stack that is activated last leaves its login."""
    from pipelines import elsewhere, execute, stacks

    def activate(_: Place, name: str) -> stacks.ActiveStack:
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", f"token of {name}")
        return stacks.ActiveStack("", None, None)

    theirs = SimpleNamespace(name="theirs", stack="other", state="running")
    monkeypatch.setattr(elsewhere, "adopt", activate)
    monkeypatch.setattr(stacks, "activate", activate)
    monkeypatch.setattr(execute, "refreshed", lambda place, record: activate(place, record.stack))
    monkeypatch.setattr("pipelines.runs.load_runs", lambda _: [theirs])
    monkeypatch.setattr("pipelines.status.status_json", lambda *_: os.environ["MLFLOW_TRACKING_TOKEN"])
    assert call("status", "--json", "--stack", "mine") == 0
    assert capsys.readouterr().out == "token of mine\n"


def test_status_says_why_a_run_failed(tmp_path: Path) -> None:
    def record(name: str, state: State, error: str) -> None:
        tracked, created = TrackedRun(uri="", run_id=""), datetime.now(UTC)
        folder = str(Place(tmp_path).runs / name)
        RunRecord(
            name=name,
            config=RunConfig(),
            created=created,
            folder=folder,
            tracked=tracked,
            steps=("train",),
            state=state,
            error=error,
        ).save()

    record("first", "failed", "RuntimeError: the [cable] was cut\nby a saw")
    record("second", "done", "")
    shown = Console(file=StringIO(), width=200)
    show_status(shown, Place(tmp_path), None)
    assert isinstance(shown.file, StringIO)
    assert shown.file.getvalue().splitlines()[-1] == "first: RuntimeError: the [cable] was cut"
    runs = {run["name"]: run["error"] for run in json.loads(status_json(Place(tmp_path), None))["runs"]}
    assert runs == {"first": "RuntimeError: the [cable] was cut\nby a saw", "second": ""}


def test_only_what_takes_a_stack_offers_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipelines.commands.models.registry_uri", lambda *_: None)
    offered = {}
    for command in (["gc"], ["delete", "a/1"], ["promote", "a/1", "--reason", "x"], ["rollback", "--reason", "x"]):
        assert call(*command) == 42
        offered[command[0]] = "--stack" in capsys.readouterr().err
    assert offered == {"gc": False, "delete": True, "promote": True, "rollback": True}


def test_a_run_that_is_done_cannot_be_resumed(finished: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "--resume", finished.record.name) == 42
    assert "is done" in capsys.readouterr().err


def test_generate_writes_pictures_that_say_how_they_were_made(
    finished: Outcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle on a blue background\na green ring on a red background\n")
    out = tmp_path / "out"
    arguments = ["--prompts", str(prompts), "--out", str(out), "--seed", "5", "--num-steps", "2"]
    assert call("generate", "--model", "shapes@challenger", *arguments) == 0
    pictures = [Image.open(path) for path in sorted(out.glob("*.png"))]
    assert [picture.text["seed"] for picture in pictures] == ["5", "6"]
    assert pictures[1].text["prompt"] == "a green ring on a red background"
    assert pictures[0].text["model"].startswith("models:/shapes/")
    assert pictures[0].size == (32, 32)
    base = tmp_path / "base"
    source = ["--model", "builtin:shapes", "--prompts", "a ring", "--out", str(base)]
    assert call("generate", *source) == 0
    assert Image.open(base / "0000.png").size == (32, 32)


def test_evaluate_sets_a_registered_model_beside_its_base(
    finished: Outcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished.registered
    own = finished.registered.uri
    out, options = tmp_path / "out", ["--num-prompts", "5", "--seeds", "2", *SETTINGS]
    assert call("evaluate", "builtin:shapes", own, "--out", str(out), *options) == 0
    shown = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert [model["label"] for model in report["models"]] == ["builtin:shapes", own]
    assert report["models"][1]["reference"] == own
    assert (report["num_prompts"], report["seeds_per_prompt"]) == (5, 2)
    assert report["trained_metrics"] == ["reward", "relative"], "as the version's own report says"
    assert all(metric in shown for metric in ("luminance", "content", "diversity"))
    assert shown.strip().endswith("report.html")


def test_what_is_made_from_an_embedded_model_needs_no_run_file(
    finished: Outcome, place: Place, flux_folder: Path, tmp_path: Path
) -> None:
    transformer = str(flux_folder / "transformer")
    assert source_of(transformer, place.mlflow_uri, "builtin:shapes") == "builtin:shapes"
    assert source_of(str(flux_folder), place.mlflow_uri, "builtin:shapes") == str(flux_folder)
    assert source_of("shapes@challenger", place.mlflow_uri) == "builtin:shapes"
    out = ["--out", str(tmp_path / "out")]
    assert call("evaluate", transformer, "--base", str(flux_folder), *out) == 42
    assert call("evaluate", str(flux_folder), "--num-prompts", "5", "--config", str(CONFIG), *SETTINGS, *out) == 0


def test_evaluate_may_go_online_for_all_that_judges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not for the run file's model, which is not drawn."""
    seen: list[str] = []

    def prepare(_: Place, *sources: str) -> None:
        seen.extend(sources)
        raise ConfigError("far enough")

    monkeypatch.setattr(Place, "prepare", prepare)
    judges = [
        "rewards={second: {family: clip, source: hf://a/reward}}",
        "evaluation.scores={held: {family: pick_score, source: hf://a/score}}",
    ]
    changes = [word for change in ("model.source=hf://a/model", *judges) for word in ("--set", change)]
    assert call("evaluate", "builtin:shapes", "--out", str(tmp_path / "out"), *changes) == 42
    assert {source for source in seen if source.startswith("hf://")} == {"hf://a/reward", "hf://a/score"}


def test_pictures_are_drawn_with_a_prefix_and_with_weights_kept_otherwise(place: Place, tmp_path: Path) -> None:
    caption = "a red ring on a blue background"
    for name, options in {
        "prefix": [caption, "--prefix", "Dark"],
        "typed": [f"Dark. {caption}"],
        "plain": [caption],
        "bf16": [caption, "--weights", "bf16"],
    }.items():
        assert call("generate", "--model", "builtin:shapes", "--out", str(tmp_path / name), "--prompts", *options) == 0
    prefixed, typed, plain = (Image.open(tmp_path / name / "0000.png") for name in ("prefix", "typed", "plain"))
    assert prefixed.tobytes() == typed.tobytes() != plain.tobytes()
    assert (prefixed.text["prompt"], prefixed.text["prefix"]) == (caption, "Dark")
    rounded, whole = (np.asarray(Image.open(tmp_path / name / "0000.png"), float) for name in ("bf16", "plain"))
    assert 0 < abs(rounded - whole).mean() < 3  # of 255


def test_a_guidance_of_the_command_line_is_a_number_or_null(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model", "builtin:shapes", "--prompts", "a ring", "--out", str(tmp_path), "--num-steps", "1"]
    assert call("generate", *arguments, "--guidance", "null") == 42
    assert "takes a guidance" in capsys.readouterr().err
    assert call("generate", *arguments, "--guidance", "2") == 0
    assert Image.open(tmp_path / "0000.png").text["guidance"] == "2.0"


def test_ctrl_c_leaves_a_run_that_goes_on_where_it_was_and_nothing_in_the_home(tmp_path: Path) -> None:
    """Stopped in mid-training, resumed from its checkpoint; HOME stays empty throughout."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("ZENML", "MLFLOW", "HF_", "XDG"))}
    environment = keep | {"HOME": str(home), "OMP_NUM_THREADS": "1"}
    longer = ("train.num_updates=24", "train.save_every=4", "monitor.every=24")
    settings = [*SETTINGS, *(argument for setting in longer for argument in ("--set", setting)), "--until", "train"]
    command = [sys.executable, str(ROOT / "run_pipeline.py"), "run"]
    first = subprocess.Popen(
        [*command, "--config", str(CONFIG), *settings],
        cwd=work,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )
    place = Place(work / ".srpo")
    _wait_for_updates(place, first, 5)
    os.killpg(first.pid, signal.SIGINT)
    shown, _ = first.communicate(timeout=60)
    assert first.returncode == 130, shown
    (name,) = [folder.name for folder in place.runs.iterdir()]
    assert f"run --resume {name}" in shown
    assert load_run(place, name).state == "interrupted"
    second = subprocess.run(
        [*command, "--resume", name],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert second.returncode == 0, second.stdout + second.stderr
    assert "resuming after update" in second.stdout + second.stderr
    lines = (place.runs / name / "train" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == list(range(1, 25))
    assert load_run(place, name).state == "done"
    assert not list(home.rglob("*"))


def _wait_for_updates(place: Place, process: "subprocess.Popen[str]", number: int) -> None:
    """Until so many updates are in the journal of the only run."""
    for _ in range(1200):
        journals = list(place.runs.glob("*/train/metrics.jsonl"))
        if journals and len(journals[0].read_text().splitlines()) >= number:
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    raise AssertionError("training wrote no updates")


def test_a_plan_on_a_gpu_says_what_it_takes(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("plan", "--config", str(CONFIG), *SETTINGS, "--gpu", "4090") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "on one 4090 (predicted, not measured)" in shown
    assert re.search(r"memory [\d.]+ GiB at the peak, in \w+; 23\.6 there: fits", shown)


def test_settings_are_explained_with_the_values_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("settings", "resources.register.ret") == 0
    assert "resources.register.retries  2" in capsys.readouterr().out
    assert call("settings", "k_") == 0
    assert "webhook_env" not in capsys.readouterr().out
    assert call("settings", "images") == 0
    assert "images  null\n" in capsys.readouterr().out, "off, unless a run names a source"
    assert call("settings", "train", "--set", "train.jitter=3", "--set", "train.lora={rank: 4}") == 0
    shown = capsys.readouterr().out
    assert "train.jitter  3\n" in shown
    assert "train.lora.rank  4\n" in shown
    assert "constant, constant_with_warmup" in shown


@pytest.mark.parametrize("preset", [[], ["--config", str(HARDWARE / "80gb.yaml"), "--set", "train.lora={rank: 64}"]])
def test_a_preset_that_fits_is_named_where_the_run_does_not(
    preset: list[str], place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a card of 30 MiB, too small for fp32 weights and moments of the Shapes model.

    A preset that does not fit gives way to another; one that does not go with a setting (141gb, with an adapter) is
    passed over.
    """
    from srpo import gpus

    monkeypatch.setitem(gpus.GPUS, "tiny", gpus.Gpu(30 / 1024, 1.0))
    settings = [*SETTINGS, "--set", "train.batch_size=1"]
    assert call("plan", "--config", str(CONFIG), *preset, *settings, "--gpu", "tiny") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "does not fit" in shown
    assert "hardware/48gb.yaml takes" in shown  # the largest that fits: an adapter, nothing kept for backward
