"""Schedules in a real local ZenML store: made, paused, resumed, run at once, deleted; what is said without a keeper."""

import shlex
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.place import Place
from srpo.config import RunConfig, load_config
from srpo.errors import EXIT_PERMANENT, EXIT_RETRY, ConfigError
from tests.conftest import CONFIG
from tests.runs import call

STACK = "keeping"


@pytest.fixture(scope="module")
def client(place: Place) -> Iterator[Any]:
    from zenml.client import Client
    from zenml.enums import StackComponentType

    from pipelines.stacks import activate_local_stack

    activate_local_stack(place)
    client = Client()
    client.create_flavor("tests.keeper.KeeperFlavor", StackComponentType.ORCHESTRATOR)
    client.create_stack_component(STACK, "keeper", StackComponentType.ORCHESTRATOR, {})
    store = client.active_stack_model.components[StackComponentType.ARTIFACT_STORE][0].name
    client.create_stack(STACK, {StackComponentType.ORCHESTRATOR: STACK, StackComponentType.ARTIFACT_STORE: store})
    yield client
    client.delete_stack(STACK)
    client.delete_stack_component(STACK, StackComponentType.ORCHESTRATOR)
    client.delete_flavor("keeper")


@pytest.fixture
def cluster(client: Any) -> Iterator[str]:
    """A stack on Kubernetes; the secret that schedules on it need goes with it."""
    pytest.importorskip("kubernetes")
    from zenml.enums import StackComponentType

    pod = {"resources": {"requests": {"cpu": "500m"}}}
    gpu = {
        "resources": {"limits": {"nvidia.com/gpu": "1"}},
        "node_selectors": {"gpu": "true"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "additional_pod_spec_args": {"automount_service_account_token": False},
    }
    settings = {"kubernetes_context": "none", "orchestrator_pod_settings": pod, "pod_settings": gpu}
    accounts = {"service_account_name": "orchestrator", "step_pod_service_account_name": "step"}
    name = "scheduling-cluster"
    client.create_stack_component(name, "kubernetes", StackComponentType.ORCHESTRATOR, settings | accounts)
    client.create_stack_component(name, "s3", StackComponentType.ARTIFACT_STORE, {"path": "s3://somewhere/zenml"})
    client.create_stack(name, dict.fromkeys((StackComponentType.ORCHESTRATOR, StackComponentType.ARTIFACT_STORE), name))
    yield name
    client.delete_stack(name, recursive=True)
    for secret in client.list_secrets(name="srpo-zenml"):
        client.delete_secret(secret.id)


@pytest.fixture
def config() -> RunConfig:
    return load_config(CONFIG, ("seed=5",))


@pytest.fixture
def weekly(client: Any, config: RunConfig) -> Iterator[str]:
    from pipelines.schedules import create, delete, schedules

    name = create(client, "weekly", "0 3 * * 0", config, STACK).name
    yield name
    if name in {schedule.name for schedule in schedules(client)}:
        delete(client, name)


def test_a_schedule_lives_in_zenml_and_knows_its_run(client: Any, weekly: str, config: RunConfig) -> None:
    from pipelines.schedules import create, find, planned, schedules
    from tests.keeper import Keeper

    before = client.active_stack_model.name
    assert [schedule.name for schedule in schedules(client)] == [weekly]
    schedule = find(client, weekly)
    assert (schedule.cron_expression, schedule.active) == ("0 3 * * 0", True)
    assert planned(client, schedule) == (config, STACK)
    assert Keeper.kept == {weekly: True}
    assert client.active_stack_model.name == before != STACK
    with pytest.raises(ConfigError, match="there is a schedule 'weekly' already"):
        create(client, weekly, "0 4 * * *", config, STACK)


def test_schedules_are_found_on_every_page(
    client: Any, weekly: str, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.schedules import create, delete, schedules

    create(client, "yearly", "0 3 1 1 *", config, STACK)
    monkeypatch.setattr(client, "list_schedules", partial(client.list_schedules, size=1))
    assert [schedule.name for schedule in schedules(client)] == [weekly, "yearly"]
    delete(client, "yearly")


def test_one_that_cannot_be_read_hides_no_other(
    client: Any, weekly: str, config: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Made by another version, whose settings are others; or what it runs was lost."""
    from pipelines.schedules import create, delete

    changed = {"config": config.model_dump(mode="json") | {"colour": "red"}, "stack": STACK}
    snapshot = SimpleNamespace(pipeline_configuration=SimpleNamespace(parameters=changed))
    others = {create(client, "daily", "0 4 * * *", config, STACK).id: [snapshot]}
    others[create(client, "hourly", "0 * * * *", config, STACK).id] = []
    listed = client.list_snapshots

    def list_snapshots(schedule_id: Any, **options: Any) -> Any:
        known = schedule_id in others
        return SimpleNamespace(items=others[schedule_id]) if known else listed(schedule_id=schedule_id, **options)

    monkeypatch.setattr(client, "list_snapshots", list_snapshots)
    said = "schedule 'daily' was made by another srpo (colour: Extra inputs are not permitted); delete and create it"
    capsys.readouterr()
    assert call("schedule", "list") == 0
    daily, hourly, last = capsys.readouterr().out.splitlines()
    assert said in daily and "ZenML has lost what schedule 'hourly' runs" in hourly
    assert last.startswith(f"{weekly}: 0 3 * * 0, active, on {STACK}, trains")
    assert call("schedule", "run-now", "daily") == EXIT_PERMANENT
    assert said in capsys.readouterr().err
    delete(client, "daily")
    delete(client, "hourly")


def test_pausing_and_resuming_reach_orchestrator_and_record(client: Any, weekly: str) -> None:
    from pipelines.schedules import find, set_active
    from tests.keeper import Keeper

    for active in (False, True):
        set_active(client, weekly, active)
        assert Keeper.kept[weekly] is active is find(client, weekly).active
    with pytest.raises(ConfigError, match="is active already"):
        set_active(client, weekly, True)
    with pytest.raises(ConfigError, match="no schedule named 'daily'; there are: weekly"):
        set_active(client, "daily", False)


def test_what_the_orchestrator_cannot_do_to_a_schedule_is_refused(
    client: Any, weekly: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zenml.orchestrators import BaseOrchestrator

    from pipelines.schedules import delete, find, set_active
    from tests.keeper import Keeper

    with monkeypatch.context() as unable:
        for method in ("update_schedule", "delete_schedule"):
            unable.setattr(Keeper, method, getattr(BaseOrchestrator, method))
        with pytest.raises(ConfigError, match="kept by keeper and cannot be paused or resumed through ZenML"):
            set_active(client, weekly, False)
        with pytest.raises(ConfigError, match="kept by keeper and cannot be deleted through ZenML"):
            delete(client, weekly)
    assert find(client, weekly).active and Keeper.kept == {weekly: True}


def test_run_now_submits_what_is_scheduled(client: Any, weekly: str, config: RunConfig) -> None:
    from pipelines.schedules import run_now
    from tests.keeper import Keeper

    Keeper.submitted.clear()
    run_now(client, weekly)
    (snapshot,) = Keeper.submitted
    assert RunConfig.model_validate(snapshot.pipeline_configuration.parameters["config"]) == config
    assert list(snapshot.step_configurations) == ["retrain"]


def test_a_deleted_schedule_is_gone_and_its_name_free(client: Any, weekly: str, config: RunConfig) -> None:
    from pipelines.schedules import create, delete, schedules
    from tests.keeper import Keeper

    delete(client, weekly)
    assert schedules(client) == []
    assert Keeper.kept == {}
    assert create(client, weekly, "0 4 * * *", config, STACK).cron_expression == "0 4 * * *"


def test_a_schedule_that_is_refused_leaves_no_record(
    client: Any, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.schedules import create, schedules
    from tests.keeper import Keeper

    monkeypatch.setattr(Keeper, "refuses", True)
    with pytest.raises(RuntimeError, match="the cluster is full"):
        create(client, "refused", "0 3 * * 0", config, STACK)
    assert schedules(client) == []


def test_the_commands_do_the_same(client: Any, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.schedules import find, planned
    from tests.keeper import Keeper

    create = ("create", "--cron", "0  3 * * 0", "--config", str(CONFIG), "--stack", STACK, "--name", "by-hand")
    assert call("schedule", *create) == 0
    config, _ = planned(client, find(client, "by-hand"))
    assert config.train.start == "champion"
    assert call("schedule", "pause", "by-hand") == 0
    assert Keeper.kept == {"by-hand": False}
    capsys.readouterr()
    assert call("schedule", "list") == 0
    assert "by-hand: 0 3 * * 0, paused, on keeping, trains" in capsys.readouterr().out
    assert call("schedule", "resume", "by-hand") == call("schedule", "run-now", "by-hand") == 0
    assert call("schedule", "delete", "by-hand") == 0
    assert Keeper.kept == {}
    assert call("schedule", "delete", "by-hand") == 42


def test_on_kubernetes_the_looking_pod_is_without_gpu_and_never_overlaps(
    client: Any, cluster: str, config: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As far as ZenML compiles it: what the orchestrator makes the CronJob from."""
    from kubernetes.client import V1Container, V1PodSpec
    from zenml.config.schedule import Schedule
    from zenml.integrations.kubernetes.manifest_utils import add_pod_settings

    from pipelines.schedules import _self_contained, active, prepared

    monkeypatch.setenv("SRPO_IMAGE", "host/srpo:1")
    with active(client, cluster):
        with pytest.raises(ConfigError, match=r"no secret srpo-zenml .*CONFIG_PATH=\$PWD/.srpo/zenml, then"):
            _self_contained(client, config)
        client.create_secret("srpo-zenml", {"api_key": "secret"})
        config = _self_contained(client, config)
        assert config.resources.image == "host/srpo:1", "which no pod has in its environment"
        assert config.storage.remote == "s3://somewhere/zenml/srpo"
        with pytest.raises(ConfigError, match="pods cannot see /home/me/prompts.txt"):
            _self_contained(client, load_config(CONFIG, ("prompts.train=/home/me/prompts.txt",)))
        pod_reaches_its_own_cluster(tmp_path, monkeypatch)
        pipeline = prepared(client, config, schedule=Schedule(name="weekly", cron_expression="0 3 * * 0"))
        pipeline.prepare(config, cluster)
        snapshot, schedule, _ = pipeline._compile(**pipeline._run_args)
        orchestrator = client.active_stack.orchestrator
        found = orchestrator.get_settings(snapshot)
        step = orchestrator.get_settings(snapshot.step_configurations["retrain"])
    assert schedule.cron_expression == "0 3 * * 0"
    assert {it.config.docker_settings.parent_image for it in snapshot.step_configurations.values()} == {"host/srpo:1"}
    assert (found.concurrency_policy, found.starting_deadline_seconds) == ("Forbid", 3600)
    assert (found.successful_jobs_history_limit, found.failed_jobs_history_limit) == (3, 3)
    assert step.step_pod_service_account_name == "orchestrator"
    spec = V1PodSpec(containers=[V1Container(name="step")])
    add_pod_settings(spec, step.pod_settings, substitutions={})
    assert not spec.node_selector
    assert not spec.tolerations
    assert not spec.affinity
    assert spec.automount_service_account_token is not False  # unlike the stack's step pods it starts Jobs
    assert spec.containers[0].resources == {"requests": {"cpu": "500m"}}


def pod_reaches_its_own_cluster(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The context of the active stack, as Kubernetes' own client reads it in a pod."""
    import kubernetes

    from steps import retrain

    monkeypatch.setattr(retrain, "ACCOUNT", folder)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert retrain._own_cluster(folder) == {}, "no pod"
    (folder / "token").write_text("secret")
    (folder / "ca.crt").touch()
    path = retrain._own_cluster(folder)["KUBECONFIG"]
    found = kubernetes.config.new_client_from_config(path, context="none").configuration
    assert found.host == "https://10.0.0.1:443" and found.ssl_ca_cert == str(folder / "ca.crt")
    assert found.get_api_key_with_prefix("authorization") == "Bearer secret" and "secret" not in Path(path).read_text()


def test_where_there_is_no_scheduler_the_crontab_line_is_given(
    client: Any, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("schedule", "create", "--cron", "0 3 * * 0", "--config", str(CONFIG), "--set", "seed=4") == 0
    told = capsys.readouterr().out
    line = told.splitlines()[-1]
    assert "put this line into `crontab -e`" in told
    assert line.startswith(f"0 3 * * 0 cd {Path.cwd()} && flock --nonblock ")
    words = shlex.split(line)
    command = words[words.index("run") - 2 : words.index(">>")]
    shown = subprocess.run([*command, "--help"], capture_output=True, check=True, text=True).stdout
    assert "--if-new-data" in shown
    assert command[2:] == ["run", "--if-new-data", "--config", str(CONFIG.resolve()), "--set", "seed=4"]


@pytest.mark.parametrize(
    "wrong",
    ["0 3 * *", "60 3 * * 0", "0 24 * * 0", "0 3 0 * *", "0 3 * 1-13 *", "0 3 * * 5-1", "a 3 * * 0", "*/0 * * * *"],
)
def test_a_wrong_expression_is_refused_before_anything_is_made(wrong: str) -> None:
    from pipelines.cron import checked_cron

    with pytest.raises(ConfigError, match="--cron"):
        checked_cron(wrong)


def test_expressions_of_all_forms_are_taken() -> None:
    from pipelines.cron import checked_cron, crontab_line

    for right in ("0 3 * * 0", "*/15 0-6/2 1,15 * 1-5", "59 23 31 12 6"):
        assert checked_cron(f" {right} ") == right
    assert crontab_line("0 3 * * 0", Path("/a b"), ["run", "100%"]).endswith(
        " flock '/a b/.srpo/schedule.lock' run 100\\% >> '/a b/.srpo/schedule.log' 2>&1"
    )


def test_of_two_schedules_in_one_folder_the_second_waits_and_of_one_it_gives_way(tmp_path: Path) -> None:
    from pipelines.cron import crontab_line

    def shell(seconds: str, word: str) -> str:
        line = crontab_line("* * * * *", tmp_path, ["sh", "-c", f"echo {word}; sleep {seconds}; echo {word}"])
        return line.removeprefix("* * * * * ")

    (tmp_path / ".srpo").mkdir()
    log = tmp_path / ".srpo" / "schedule.log"
    with subprocess.Popen(["sh", "-c", shell("1", "first")]) as first:
        while not log.exists() or not log.read_text():
            time.sleep(0.01)
        assert subprocess.run(["sh", "-c", shell("1", "first")], check=False).returncode == 1
        assert subprocess.run(["sh", "-c", shell("0", "second")], check=False).returncode == 0
        assert first.wait() == 0
    assert log.read_text().split() == ["first", "first", "second", "second"]


@pytest.mark.parametrize(
    ("code", "told"), [(-9, EXIT_RETRY), (75, EXIT_RETRY), (1, EXIT_PERMANENT), (42, EXIT_PERMANENT)]
)
def test_only_what_another_pod_can_mend_is_tried_again(code: int, told: int) -> None:
    from steps.retrain import last_word

    assert last_word(code) == told
