"""Two processes and a real MLflow server: whatever they do at once, one champion, no version lost, a whole history."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from mlflow import MlflowClient

from srpo.artifacts import PromptSet, PromptSets, Snapshot, Trained, Weights
from srpo.config import RegistryConfig, RunConfig
from srpo.errors import ConfigError
from srpo.registry import Move, champion_moves, check_lease, promote, register, that_happened
from srpo.registry.lookup import address
from srpo.registry.manifest import FOLDER, log_manifest
from srpo.tracking import connect, open_run
from tests.infra.loopback import mlflow_server
from tests.registry.versions import weightless, write_report

fork = multiprocessing.get_context("fork")
ROUNDS = [3, pytest.param(20, marks=pytest.mark.slow)]
Writer = Callable[[str, RunConfig, Path, int, Barrier], None]


@pytest.fixture(scope="module")
def server(store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """MLflow's own server on loopback."""
    folder = tmp_path_factory.mktemp("server")
    command = ["mlflow", "server", "--workers=1", f"--backend-store-uri={store}", f"--default-artifact-root={folder}"]
    with mlflow_server(command, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, folder) as uri:
        yield uri


def config_of(name: str, tmp_path: Path) -> RunConfig:
    return RunConfig(name=name, registry=RegistryConfig(model_name=name, lease=str(tmp_path / "leases")))


def race(writer: Writer, uri: str, config: RunConfig, folder: Path, rounds: int) -> None:
    """Two processes that begin each round together."""
    barrier = fork.Barrier(2)
    processes = [fork.Process(target=writer, args=(uri, config, folder, rounds, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    assert [process.exitcode for process in processes] == [0, 0]


def whole_history(uri: str, name: str) -> list[Move]:
    """All moves, after checking that each happened, each starts where the last one led to, and none is missing."""
    moves, champion = champion_moves(uri)[name]
    assert that_happened(moves, champion) == moves
    assert [move.number for move in moves] == list(range(1, len(moves) + 1))
    return moves


def num_versions(uri: str, name: str) -> int:
    return len(connect(uri).search_model_versions(f"name = '{name}'"))


def promote_own(uri: str, config: RunConfig, folder: Path, rounds: int, barrier: Barrier) -> None:
    client, name = connect(uri), config.registry.model_name
    tracked = open_run(uri, None, f"run-{os.getpid()}", config)
    log_manifest(client, tracked, weightless())
    for number in range(rounds):
        version = client.create_model_version(name, f"runs:/{tracked.run_id}/{FOLDER}", run_id=tracked.run_id).version
        barrier.wait(60)
        promote(uri, f"{name}/{version}", f"round {number}")


@pytest.mark.parametrize("rounds", ROUNDS)
def test_two_who_promote_by_hand_at_once(server: str, name: str, tmp_path: Path, rounds: int) -> None:
    config = config_of(name, tmp_path)
    connect(server).create_registered_model(name, tags={"lease": config.registry.lease or ""})
    connect(server).create_experiment(name)
    race(promote_own, server, config, tmp_path, rounds)
    moves = whole_history(server, name)
    assert num_versions(server, name) == 2 * rounds
    assert sorted(int(move.after) for move in moves) == list(range(1, 2 * rounds + 1))
    assert MlflowClient(server, server).get_model_version_by_alias(name, "champion").version == moves[-1].after


def register_own(uri: str, config: RunConfig, folder: Path, rounds: int, barrier: Barrier) -> None:
    """Evaluate against the champion that is there, then register at the same moment as the other."""
    client, name = connect(uri), config.registry.model_name
    for number in range(rounds):
        found = client.search_registered_models(f"name = '{name}'")
        champion = found[0].aliases.get("champion") if found else None
        compared = None if champion is None else address(name, champion)
        evaluated = write_report(folder / f"{os.getpid()}-{number}.json", config, compared)
        tracked = open_run(uri, None, f"run-{os.getpid()}-{number}", config)
        barrier.wait(60)
        register(config, *made(), evaluated, tracked)
        barrier.wait(60)


@pytest.mark.parametrize("rounds", ROUNDS)
def test_of_two_who_register_at_once_the_second_must_evaluate_again(
    server: str, name: str, tmp_path: Path, rounds: int
) -> None:
    config = config_of(name, tmp_path)
    connect(server).create_experiment(name)
    race(register_own, server, config, tmp_path, rounds)
    moves = whole_history(server, name)
    assert num_versions(server, name) == 2 * rounds
    assert len(moves) == rounds
    assert {(int(move.after) - 1) // 2 for move in moves} == set(range(rounds))  # one of each round's two versions
    aliases = connect(server).get_registered_model(name).aliases
    assert aliases == {"champion": moves[-1].after, "challenger": str(2 * rounds)}


def test_a_server_needs_a_lease_before_any_work(server: str) -> None:
    with pytest.raises(ConfigError, match="offers no lock"):
        check_lease(server, RegistryConfig())


def made() -> tuple[Weights, PromptSets, Trained]:
    """What a run hands to `register`, without files."""
    files = Snapshot(source="nowhere", uri="/nowhere", files=())
    prompts = PromptSet(snapshot=files, index="index.json", num_prompts=1, bytes_per_prompt=1)
    trained = Trained(output_dir="/nowhere", transformer=files, best_update=1, num_updates=1, seconds=1)
    return Weights(model=files, reward=files), PromptSets(train=prompts, held_out=prompts), trained
