"""The GPU benchmark in its small form: the same code on the Shapes model, on the CPU."""

import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench import FULL, SMALL, build, config_of, memory, update
from benchmarks.gpu import Case, peak_of, run_preset
from srpo.gpus import GPUS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return run_preset(SMALL, "48gb", CPU, (False,), updates=1)


def test_a_preset_is_measured_online_and_offline(cases: list[Case]) -> None:
    online, offline = cases
    assert [case.outcome for case in cases] == ["measured", "measured"]
    assert online.seconds_per_prompt > offline.seconds_per_prompt > 0
    assert set(online.parts) == {"rollout", "gradient", "optimizer"}
    rate = online.tflop_per_prompt / online.seconds_per_prompt
    assert online.tflops == pytest.approx(rate)
    assert online.utilisation is None and online.reserved_gib is None, "a CPU has neither"


def test_rollouts_are_the_difference_in_work(cases: list[Case]) -> None:
    bench = build(SMALL, config_of(SMALL, "48gb"), CPU)
    noise = torch.randn(1, *bench.model.latent_shape(32, 32))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        bench.model.velocity(noise, torch.ones(1), bench.embeddings, 1.0)
    steps = bench.config.rollout.num_steps * counter.get_total_flops() / 1e12
    assert cases[0].tflop_per_prompt - cases[1].tflop_per_prompt == pytest.approx(steps)


def test_the_predicted_bytes_are_those_in_use(cases: list[Case]) -> None:
    for case in cases:
        assert case.allocated_gib == pytest.approx(case.predicted_gib, rel=0.03)


def test_random_weights_give_finite_gradients_that_move_them() -> None:
    bench = build(SMALL, config_of(SMALL, "48gb"), CPU)
    before = [parameter.detach().clone() for parameter in bench.parameters]
    update(bench, online=False)
    moved = [not torch.equal(old, new) for old, new in zip(before, bench.parameters, strict=True)]
    assert any(moved) and all(bool(torch.isfinite(parameter).all()) for parameter in bench.parameters)


def test_the_full_size_is_flux_and_vit_h() -> None:
    """Built where tensors have shapes alone."""
    bench = build(FULL, config_of(FULL, "48gb"), torch.device("meta"))
    sizes = [
        sum(parameter.numel() for parameter in module.parameters() if not parameter.requires_grad) / 1e9
        for module in (bench.model.transformer, bench.model.vae, bench.reward)
    ]
    assert sizes == [pytest.approx(size, rel=0.01) for size in (11.9, 0.084, 0.986)]
    assert bench.model.transformer.dtype == torch.bfloat16
    assert bench.embeddings["prompt_embeds"].shape == (1, 512, 4096)


def test_more_memory_is_measured_where_more_is_kept() -> None:
    config = config_of(SMALL, "48gb")
    keeping = config.model_copy(update={"train": config.train.model_copy(update={"gradient_checkpointing": "none"})})
    saving, plain = (memory(build(SMALL, each, CPU), online=False)[0] for each in (config, keeping))
    assert plain > saving * 1.05


def test_a_missing_package_is_said_and_nothing_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", None)
    cases = run_preset(SMALL, "24gb", CPU, (False,), updates=1)
    assert all(case.outcome.startswith("ModuleNotFoundError") and case.seconds_per_prompt is None for case in cases)


def test_a_card_is_found_by_the_name_that_its_driver_gives() -> None:
    names = {
        "NVIDIA H100 80GB HBM3": "H100",
        "NVIDIA H200": "H200",
        "NVIDIA H20": "H20",
        "NVIDIA A100-SXM4-40GB": "A100-40",
        "NVIDIA GeForce RTX 4090": "4090",
    }
    assert {name: peak_of(name) for name in names} == {name: GPUS[key].peak for name, key in names.items()}
    assert peak_of("Quadro 4000") is None
