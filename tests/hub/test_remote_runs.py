"""A run whose weights lie on a hub: planned without fetching, fetched once, offline where nothing is on a hub."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import run_pipeline
from pipelines import fingerprint
from pipelines.place import Place
from srpo.config import load_config
from srpo.errors import ConfigError
from srpo.evaluation.lineup import find_contender
from srpo.forecast.price import price
from srpo.hub import fetch, fetched
from srpo.plan import make_plan
from srpo.shapes import WEIGHTS_DIR
from srpo.weights import bring, fetch_weights
from tests.conftest import CONFIG, SHORT
from tests.hub.hub_server import HubServer

ROOT = Path(__file__).parent.parent.parent
MODEL, REWARD = "hf://shapes/flux", "hf://shapes/reward"
SETTINGS = (*SHORT, f"model.source={MODEL}", f"reward.source={REWARD}")


@pytest.fixture
def shapes(hub: HubServer) -> HubServer:
    """The embedded world on a hub."""
    for repo, folder in (("shapes/flux", WEIGHTS_DIR / "flux"), ("shapes/reward", WEIGHTS_DIR / "reward")):
        files = (file for file in folder.rglob("*") if file.is_file())
        hub.repos[repo] = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
    return hub


def test_a_plan_says_what_will_be_fetched_and_fetches_nothing(shapes: HubServer, tmp_path: Path) -> None:
    plan = make_plan(load_config(CONFIG, SETTINGS), tmp_path)
    assert set(shapes.sent) == {"model_index.json"}
    findings = {check.subject: check.finding for check in plan.checks}
    assert "files to fetch, commit 111111111111" in findings["model"]
    size = sum(map(len, shapes.repos["shapes/flux"].values())) + sum(map(len, shapes.repos["shapes/reward"].values()))
    for source, part in ((MODEL, "model"), (REWARD, "reward")):
        fetch(source, part)
    later = make_plan(load_config(CONFIG, SETTINGS), tmp_path)
    assert "a whole flux folder" in {check.subject: check.finding for check in later.checks}["model"]
    assert plan.disk_needed >= later.disk_needed + size


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("reward.architecture=elsewhere.json", r"architecture: no file elsewhere\.json in .*, nor beside the"),
        ("reward.architecture=ViT-Z", "open_clip has no model named 'ViT-Z'"),
        ("train.lora={target_modules: [to_z]}", "the transformer has no layer named to_z"),
    ],
)
def test_what_small_files_tell_is_refused_before_the_weights_are_fetched(
    shapes: HubServer, setting: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(load_config(CONFIG, (*SETTINGS, setting)), tmp_path)
    assert not [path for path in shapes.sent if path.endswith((".safetensors", ".pt"))]


def test_a_price_needs_no_weights(shapes: HubServer) -> None:
    remote = price(load_config(CONFIG, SETTINGS), "4090")
    assert not [path for path in shapes.sent if path.endswith((".safetensors", ".pt"))]
    assert fetched(MODEL) is None
    assert remote == price(load_config(CONFIG, SHORT), "4090")


def test_a_plan_refuses_what_the_disk_cannot_hold(
    shapes: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(ConfigError, match=r"downloads, checkpoints and embeddings may take"):
        make_plan(load_config(CONFIG, SETTINGS), tmp_path)


def test_a_plan_refuses_a_gated_model(shapes: HubServer, tmp_path: Path) -> None:
    shapes.gated.add("shapes/flux")
    with pytest.raises(ConfigError, match="hf://shapes/flux is gated: accept its licence"):
        make_plan(load_config(CONFIG, SETTINGS), tmp_path)


def test_a_remote_transformer_is_told_from_a_whole_model_before_it_is_fetched(shapes: HubServer) -> None:
    transformer = "transformer/diffusion_pytorch_model.safetensors"
    shapes.repos["shapes/other"] = {transformer: shapes.repos["shapes/flux"][transformer]}
    lone, config = f"hf://shapes/other/{transformer}", load_config(CONFIG, SHORT)
    with pytest.raises(ConfigError, match="is no whole diffusers folder; if it is a part of one, give --base"):
        find_contender(lone, config)
    assert not shapes.sent
    whole, part = (find_contender(reference, config, base=MODEL) for reference in (MODEL, lone))
    assert (whole.transformer, whole.base) == (None, part.base)
    assert part.transformer is not None
    assert part.transformer.source == lone


def test_the_fingerprint_of_a_remote_source_follows_it(shapes: HubServer) -> None:
    before = fingerprint.of_source(MODEL, "model")
    assert fingerprint.of_source(MODEL, "model") == before
    shapes.repos["shapes/flux"]["vae/config.json"] += b" "
    assert fingerprint.of_source(MODEL, "model") != before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (f"model.source={REWARD}", "no diffusers folder"),
        ("model.family=unet", "no model family named 'unet'"),
        ("reward.family=vibes", "^no reward family named 'vibes'"),
    ],
)
def test_a_plan_refuses_what_no_download_would_mend(
    shapes: HubServer, tmp_path: Path, setting: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_plan(load_config(CONFIG, (*SETTINGS, setting)), tmp_path)


def test_another_name_of_what_is_here_needs_nothing(shapes: HubServer, tmp_path: Path) -> None:
    fetch(MODEL, "model")
    shapes.sent.clear()
    make_plan(load_config(CONFIG, (*SETTINGS, f"model.source={MODEL}@main")), tmp_path)
    assert fetch(f"{MODEL}@main", "model").sha256 == fetch(MODEL, "model").sha256
    assert set(shapes.sent) == {"model_index.json"}


def test_what_arrives_is_checked_before_it_is_used(shapes: HubServer) -> None:
    del shapes.repos["shapes/flux"]["vae/diffusion_pytorch_model.safetensors"]
    config = load_config(CONFIG, SETTINGS)
    with pytest.raises(ConfigError, match=r"holds no diffusion_pytorch_model\.safetensors"):
        fetch_weights(config.model, config.reward, {}, {})


def test_held_out_scores_are_fetched_with_the_rest(shapes: HubServer, tmp_path: Path) -> None:
    score = f"evaluation.scores={{held: {{family: hps, source: {REWARD}, architecture: shapes-vit.json}}}}"
    config = load_config(CONFIG, (*SHORT, score))
    findings = {check.subject: check.finding for check in make_plan(config, tmp_path).checks}
    assert findings["scores.held"].startswith(f"{REWARD}: 0.0")
    with pytest.raises(ConfigError, match=r"architecture: no file gone\.json"):
        make_plan(load_config(CONFIG, (*SHORT, score.replace("shapes-vit", "gone"))), tmp_path)
    weights = fetch_weights(config.model, config.reward, config.evaluation.scores, {})
    held = weights.scores["held"].checkpoint
    assert held.revision and held.sha256 == fetch(REWARD, "reward").sha256
    assert bring(weights) == weights
    findings = {check.subject: check.finding for check in make_plan(config, tmp_path).checks}
    assert findings["scores.held"] == f"{REWARD}: a whole hps checkpoint"


@pytest.mark.parametrize(("source", "online"), [("builtin:shapes", False), ("s3://b/x", False), (MODEL, True)])
def test_the_hub_is_open_only_to_runs_that_name_it(
    source: str, online: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {})
    Place(tmp_path).prepare(source)
    assert ("HF_HUB_OFFLINE" not in os.environ) == online
    assert ("HF_HOME" not in os.environ) == online


def test_a_hub_that_does_not_answer_is_one_sentence_and_worth_another_try(
    shapes: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes.close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with pytest.raises(SystemExit) as ended:
        run_pipeline.main(["plan", "--set", f"model.source={MODEL}"])
    problem = capsys.readouterr().err
    assert ended.value.code == 75
    assert f"{MODEL} cannot be reached now" in problem
    assert len(problem.splitlines()) == 1


@pytest.mark.slow
def test_the_command_line_fetches_by_the_users_own_token(shapes: HubServer, tmp_path: Path) -> None:
    settings = [argument for setting in SETTINGS for argument in ("--set", setting)]
    command = [sys.executable, str(ROOT / "run_pipeline.py"), "run", "--until", "download", *settings]
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "fetched transformer/diffusion_pytorch_model.safetensors" in ended.stderr
    assert "hf_secret" not in ended.stdout + ended.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"hf_secret" in path.read_bytes()]
