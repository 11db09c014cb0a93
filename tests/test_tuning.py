"""What is trained, and how: adapters, quantised bases, 8-bit moments, stochastic rounding, recomputation."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from srpo.artifacts import TrainJob
from srpo.config import LoraConfig, ModelConfig, RunConfig, TrainConfig
from srpo.devices import find_compiler
from srpo.errors import ConfigError
from srpo.forecast.cuda_rules import cuda_autocast
from srpo.models import load_model
from srpo.models.flux import Flux
from srpo.models.weights import load_transformer, quantise
from srpo.record import METRICS, read_journal
from srpo.trained_model import trained_model
from srpo.tuning import (
    add_lora,
    check_attention,
    check_compiler,
    make_optimizer,
    merged,
    save_memory,
    speed_up,
    stepping,
    trainable,
)
from tests.jobs import assert_same_weights, killed, place, run, weights_of

Gradients = dict[str, torch.Tensor]
LORA = LoraConfig(rank=4, alpha=8)


def model_of(folder: Path, **settings: object) -> Flux:
    return load_model(ModelConfig(height=32, width=32, **settings), folder)


def inputs() -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor], float]:
    source = torch.Generator().manual_seed(0)
    embeddings = {
        "prompt_embeds": torch.randn(2, 12, 64, generator=source),
        "pooled_prompt_embeds": torch.randn(2, 64, generator=source),
    }
    return torch.randn(2, 8, 8, 8, generator=source), torch.tensor([0.8, 0.6]), embeddings, 3.5


def gradients(model: Flux) -> Gradients:
    model.transformer.zero_grad()
    model.decode(model.velocity(*inputs())).square().sum().backward()
    named = model.transformer.named_parameters()
    return {name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None}


def test_the_adapters_gradient_is_the_full_gradient_projected(flux_folder: Path) -> None:
    """W + s B A: the gradient of B is s G A^T, that of A is s B^T G, where G is the gradient of W."""
    full = gradients(model_of(flux_folder))
    model = model_of(flux_folder)
    add_lora(model.transformer, LORA)
    adapters = dict(model.transformer.named_parameters())
    for name, parameter in adapters.items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=1e-6, generator=torch.Generator().manual_seed(1))
    scale = LORA.alpha / LORA.rank
    projected = gradients(model)
    assert len(projected) == 2 * 2 * 8 + 4 * 2 * 3
    for name, gradient in projected.items():
        layer, _, which = name.removesuffix(".default.weight").rpartition(".")
        other = adapters[name.replace(*(("lora_A", "lora_B") if which == "lora_A" else ("lora_B", "lora_A")))].detach()
        whole = full[f"{layer}.weight"]
        expected = scale * (other.T @ whole if which == "lora_A" else whole @ other.T)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def adapted_model(folder: Path, **settings: object) -> Flux:
    """An adapter that has learnt something."""
    model = model_of(folder, **settings)
    add_lora(model.transformer, LORA)
    for name, parameter in model.transformer.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(1))
    return model


def test_a_merged_adapter_draws_the_same_with_fewer_products(flux_folder: Path) -> None:
    model = adapted_model(flux_folder)
    with torch.no_grad(), FlopCounterMode(display=False) as apart:
        expected = model.velocity(*inputs())
    with torch.no_grad(), merged(model.transformer), FlopCounterMode(display=False) as together:
        torch.testing.assert_close(model.velocity(*inputs()), expected)
    with torch.no_grad(), FlopCounterMode(display=False) as base:
        model_of(flux_folder).velocity(*inputs())
    assert base.get_total_flops() == together.get_total_flops() < apart.get_total_flops()


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_after_merging_every_weight_is_back_bit_for_bit_and_the_adapter_trains(flux_folder: Path, weights: str) -> None:
    model = adapted_model(flux_folder, weights=weights)
    before = {name: tensor.clone() for name, tensor in model.transformer.state_dict().items()}
    expected = gradients(model)
    with merged(model.transformer):
        inside = model.transformer.state_dict()
        assert any(not torch.equal(inside[name], before[name]) for name in before)
    with pytest.raises(ZeroDivisionError), merged(model.transformer):
        raise ZeroDivisionError
    after = model.transformer.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    got = gradients(model)
    assert got.keys() == expected.keys() and all(torch.equal(got[name], expected[name]) for name in got)


@pytest.mark.parametrize("weights", ["bf16", "int8", "nf4"])
def test_a_quantised_base_is_near_the_model_and_passes_gradients_to_its_adapter(
    flux_folder: Path, weights: str
) -> None:
    exact, kept = model_of(flux_folder), model_of(flux_folder, weights=weights)
    with torch.no_grad():
        expected, got = exact.velocity(*inputs()), kept.velocity(*inputs())
    error = float((got - expected).norm() / expected.norm())
    assert 0 < error < {"bf16": 0.06, "int8": 0.08, "nf4": 0.3}[weights]
    add_lora(kept.transformer, LORA)
    parameters = trainable(kept.transformer)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    found = gradients(kept)
    assert len(found) == len(parameters)
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    assert any(gradient.norm() > 0 for gradient in found.values())


@pytest.mark.parametrize("weights", ["int8", "nf4"])
def test_a_quantised_layer_gives_bf16_as_any_layer_does_under_autocast(flux_folder: Path, weights: str) -> None:
    layer = model_of(flux_folder, weights=weights).transformer.transformer_blocks[0].attn.to_q
    x = torch.randn(2, 5, layer.in_features, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
def test_every_tensor_goes_to_the_device_as_it_is_read(flux_folder: Path, weights: Any) -> None:
    read = load_transformer(FluxTransformer2DModel, flux_folder / "transformer", None, weights, torch.device("meta"))
    assert all(parameter.is_meta for parameter in read.parameters())


def test_nf4_is_made_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes.nn import Params4bit

    there: list[torch.device] = []
    monkeypatch.setattr(Params4bit, "_quantize", lambda self, device: there.append(device) or self)
    quantise(nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(8, 8)])}), "nf4", torch.device("cuda"))
    assert there == [torch.device("cuda")]


def test_nf4_weights_pass_gradients_after_a_forward_without(flux_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the processor has bf16 instructions, a layer that is not in training packs its weight in such a forward."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    model = adapted_model(flux_folder, weights="nf4")
    expected = gradients(model)
    model.transformer.eval()
    with torch.no_grad():
        model.velocity(*inputs())
    found = gradients(model)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_stochastic_rounding_keeps_in_the_mean_what_nearest_drops() -> None:
    """A step of a hundredth of a bf16 unit, repeated: nearest never moves, stochastic moves by its mean."""
    torch.manual_seed(0)
    moved = {}
    for rounding in ("nearest", "stochastic"):
        parameter = nn.Parameter(torch.ones(20_000, dtype=torch.bfloat16))
        rate = 2**-8 / 100  # the unit below 1 is 2^-8
        optimizer = make_optimizer([parameter], TrainConfig(learning_rate=rate, weight_decay=0, rounding=rounding))
        for _ in range(20):
            parameter.grad = torch.ones_like(parameter)
            with stepping([parameter]):
                optimizer.step()
        moved[rounding] = float(1 - parameter.detach().double().mean()) / rate
    assert moved["nearest"] == 0
    assert moved["stochastic"] == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize("kind", [{}, {"optimizer": "adamw_8bit"}, {"rounding": "stochastic"}])
def test_every_optimizer_has_all_its_settings_from_the_config(kind: dict[str, str]) -> None:
    settings = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.3}
    optimizer = make_optimizer([nn.Parameter(torch.ones(2))], TrainConfig(learning_rate=0.01, **settings, **kind))
    assert {name: optimizer.defaults[name] for name in settings} == settings
    assert float(optimizer.defaults["lr"]) == pytest.approx(0.01)


@pytest.mark.parametrize("kept", ["selective", "full"])
def test_recomputation_changes_no_gradient(flux_folder: Path, kept: str) -> None:
    plain, saving = model_of(flux_folder), model_of(flux_folder)
    save_memory(saving.transformer, saving.vae, TrainConfig(gradient_checkpointing=kept, vae_checkpointing=True))
    expected, got = gradients(plain), gradients(saving)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


class Products(TorchDispatchMode):
    """Counts matrix products, those with 4-bit weights too."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        self.count += str(operation).partition(".")[2] in ("mm.default", "addmm.default", "gemm_4bit.default")
        return operation(*arguments, **(named or {}))


@pytest.mark.parametrize("weights", ["fp32", "nf4"])
def test_selective_recomputation_runs_no_matmul_twice(flux_folder: Path, weights: str) -> None:
    work = {}
    for kept in ("none", "selective", "full"):
        model = model_of(flux_folder, weights=weights)
        if weights == "nf4":
            add_lora(model.transformer, LORA)
        save_memory(model.transformer, model.vae, TrainConfig(gradient_checkpointing=kept))
        with Products() as products:
            gradients(model)
        work[kept] = products.count
    assert work["none"] == work["selective"] < work["full"]


def test_an_attention_kernel_that_is_not_there_is_refused_and_one_that_is_changes_little(flux_folder: Path) -> None:
    model = model_of(flux_folder)
    with pytest.raises(ConfigError, match=r"train\.attention: 'flash' cannot be used here"):
        speed_up(model.transformer, TrainConfig(attention="flash"))
    speed_up(model.transformer, TrainConfig(attention="_native_math"))
    with torch.no_grad():
        torch.testing.assert_close(model.velocity(*inputs()), model_of(flux_folder).velocity(*inputs()))


@pytest.mark.parametrize("family", ["flux", "qwen_image"])
def test_a_packages_kernel_gets_queries_keys_and_values_of_one_type(
    family: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Autocast on CUDA computes the norms of queries and keys in fp32; `flash` takes nothing but half precision."""
    folder = request.getfixturevalue(f"{family.partition('_')[0]}_folder")
    model = load_model(ModelConfig(family=family, height=32, width=32), folder)
    kernel: Any = SimpleNamespace(set_attention_backend=lambda _: None, named_modules=model.transformer.named_modules)
    speed_up(kernel, TrainConfig(attention="flash"))
    seen = set()
    module = sys.modules[type(model.transformer).__module__]
    attend = module.dispatch_attention_fn

    def spy(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **named: Any) -> torch.Tensor:
        seen.update((query.dtype, key.dtype, value.dtype))
        return attend(query, key, value, **named)

    monkeypatch.setattr(module, "dispatch_attention_fn", spy)
    blank = model.blank_embeddings(1, 12)
    with torch.no_grad(), cuda_autocast(), torch.autocast("cpu", torch.bfloat16):
        model.velocity(torch.randn(1, *model.latent_shape(32, 32)), torch.tensor([0.8]), blank, 3.5)
    assert seen == {torch.bfloat16}


def test_a_kernel_without_fp32_is_refused_for_it() -> None:
    for kernel in ("flash", "_flash_3", "_native_flash", "_native_cudnn"):
        with pytest.raises(ConfigError, match=f"train.attention: '{kernel}' computes in bf16; set train.precision to"):
            check_attention(TrainConfig(attention=kernel, precision="fp32"), on_gpu=False)
        check_attention(TrainConfig(attention=kernel), on_gpu=False)
    check_attention(TrainConfig(attention="native", precision="fp32"), on_gpu=False)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"compile": True}, "train.compile"),
        ({"optimizer": "adamw_8bit"}, "train.optimizer 'adamw_8bit'"),
        ({"rounding": "stochastic"}, "train.rounding 'stochastic'"),
    ],
)
def test_what_a_gpu_runs_compiled_is_refused_without_a_compiler(
    setting: dict[str, object], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    config = TrainConfig.model_validate(setting)
    with pytest.raises(ConfigError, match=f"^{named}: on a GPU Triton compiles this, and there is no C compiler here"):
        check_compiler(config, on_gpu=True)
    on_gpu: Any = SimpleNamespace(device=torch.device("cuda"))
    model = ModelConfig(weights="bf16" if "rounding" in setting else "fp32")
    with pytest.raises(ConfigError, match=named):  # before anything is loaded
        trained_model(RunConfig(model=model, train=config), tmp_path / "nowhere", on_gpu)
    check_compiler(config, on_gpu=False)
    check_compiler(TrainConfig(), on_gpu=True)
    clang = tmp_path / "clang"
    clang.touch(mode=0o755)
    monkeypatch.setattr("sysconfig.get_path", lambda *_: str(tmp_path))
    with pytest.raises(ConfigError, match=f"^{named}: .* Python's headers are not here .*{tmp_path}/Python.h"):
        check_compiler(config, on_gpu=True)
    check_compiler(config, on_gpu=False)
    (tmp_path / "Python.h").touch()
    check_compiler(config, on_gpu=True)
    monkeypatch.setenv("CC", "nowhere")
    assert find_compiler() is None, "Triton takes CC at its word"
    monkeypatch.setenv("CC", str(clang))
    assert find_compiler() == str(clang)


def test_compiled_blocks_may_have_many_batch_sizes() -> None:
    """With and without gradient each; past the limit a block would run uncompiled."""
    blocks: Any = SimpleNamespace(compile_repeated_blocks=lambda: None)
    with torch._dynamo.config.patch(recompile_limit=8):
        speed_up(blocks, TrainConfig())
        assert torch._dynamo.config.recompile_limit == 8
        speed_up(blocks, TrainConfig(compile=True))
        assert torch._dynamo.config.recompile_limit == 64


@pytest.mark.slow
def test_compiled_blocks_give_the_same_gradient_to_rounding(flux_folder: Path) -> None:
    plain, compiled = model_of(flux_folder), model_of(flux_folder)
    speed_up(compiled.transformer, TrainConfig(compile=True))
    expected, got = gradients(plain), gradients(compiled)
    assert expected.keys() == {name.replace("_orig_mod.", "") for name in got}
    for name, gradient in got.items():
        whole = expected[name.replace("_orig_mod.", "")]
        torch.testing.assert_close(gradient, whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()) + 1e-7)


def test_an_adapter_for_a_layer_that_is_not_there_is_refused(flux_folder: Path) -> None:
    with pytest.raises(ConfigError, match="no layer named to_z"):
        add_lora(model_of(flux_folder).transformer, LoraConfig(target_modules=("to_q", "to_z")))
    with pytest.raises(ConfigError, match=r"train\.lora\.target_modules: .*RMSNorm.* is not supported"):
        add_lora(model_of(flux_folder).transformer, LoraConfig(target_modules=("norm_q",)))


def with_settings(job: TrainJob, model: dict[str, object], **train: object) -> TrainJob:
    config = job.config.model_dump() | {
        "model": job.config.model.model_dump() | model,
        "train": job.config.train.model_dump() | {"num_updates": 2, "save_every": 1, "schedule": "constant"} | train,
        "monitor": job.config.monitor.model_dump() | {"every": 1},
    }
    return job.model_copy(update={"config": RunConfig.model_validate(config)})


WAYS = {
    "lora": ({}, {"lora": {"rank": 4}}),
    "lora_8bit_on_nf4": ({"weights": "nf4"}, {"lora": {"rank": 32}, "optimizer": "adamw_8bit"}),
    "lora_on_int8": ({"weights": "int8"}, {"lora": {"rank": 4}, "gradient_checkpointing": "selective"}),
    "bf16_stochastic_8bit": ({"weights": "bf16"}, {"rounding": "stochastic", "optimizer": "adamw_8bit"}),
    "bf16_stochastic": ({"weights": "bf16"}, {"rounding": "stochastic"}),
    "fp32_master_8bit": ({}, {"optimizer": "adamw_8bit", "precision": "bf16"}),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_training_moves_resumes_bit_for_bit_and_exports_what_it_trained(
    way: str, job: TrainJob, tmp_path: Path
) -> None:
    model, train = WAYS[way]
    job = with_settings(job, model, **train)
    whole = run(place(job, tmp_path / "whole"))
    run(place(job, tmp_path / "parts", num_updates=1))
    run(place(job, tmp_path / "parts"))
    assert_same_weights(tmp_path / "whole", tmp_path / "parts", 2)
    before, after = weights_of(tmp_path / "whole", 1), weights_of(tmp_path / "whole", 2)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    settings = job.config.model.model_dump() | model
    exported = load_model(ModelConfig.model_validate(settings), job.weights.model.path, whole.transformer.path)
    best = weights_of(tmp_path / "whole", whole.best_update)
    loaded = {
        name.replace(".default_0.", ".default."): tensor for name, tensor in exported.transformer.state_dict().items()
    }
    assert best.keys() <= loaded.keys()
    assert all(torch.equal(best[name].to(loaded[name].dtype), loaded[name]) for name in best)


def test_a_resumed_schedule_has_the_same_rates(job: TrainJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao's optimizers keep the rate in float32; a base rate that was read as a float is another one."""
    settings = {"optimizer": "adamw_8bit", "schedule": "cosine", "num_updates": 8, "learning_rate": 5e-6}
    job = with_settings(job, {}, **settings)
    run(place(job, tmp_path / "whole"))
    with killed(monkeypatch, 3, "step"):
        run(place(job, tmp_path / "parts"))
    run(place(job, tmp_path / "parts"))
    whole, parts = (read_journal(tmp_path / name / METRICS) for name in ("whole", "parts"))
    assert [entry["learning_rate"] for entry in parts] == [entry["learning_rate"] for entry in whole]


def test_diffusers_reads_the_adapter(job: TrainJob, tmp_path: Path) -> None:
    trained = run(place(with_settings(job, {}, lora={"rank": 4, "alpha": 8}, learning_rate=1e-2), tmp_path))
    ours = load_model(job.config.model, job.weights.model.path, trained.transformer.path)
    pipeline = FluxPipeline.from_pretrained(job.weights.model.path, local_files_only=True)
    base = model_of(job.weights.model.path)
    pipeline.load_lora_weights(trained.transformer.path)
    theirs = Flux(pipeline.transformer, pipeline.vae, pipeline.scheduler)
    with torch.no_grad():
        torch.testing.assert_close(ours.velocity(*inputs()), theirs.velocity(*inputs()))
        assert (ours.velocity(*inputs()) - base.velocity(*inputs())).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("model", "train", "message"),
    [
        ({}, {}, "nothing to merge; set train.lora"),
        ({"weights": "int8"}, {"lora": {}}, "cannot add an adapter to 'int8' weights"),
        ({"weights": "nf4"}, {"lora": {}}, "cannot add an adapter to 'nf4' weights"),
    ],
)
def test_an_adapter_is_merged_only_where_it_can_be(
    model: dict[str, object], train: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate({"model": model, "train": train, "rollout": {"merge_lora": True}})


@pytest.mark.parametrize(
    ("model", "train", "message"),
    [
        ({"weights": "bf16"}, {}, "plain AdamW on bf16 weights loses nine tenths"),
        ({"weights": "nf4"}, {}, "'nf4' is frozen; set train.lora"),
        ({}, {"rounding": "stochastic"}, "here it does nothing"),
        ({}, {"sharding": "fsdp2"}, "more than one process"),
        ({}, {"gather": "each_update"}, "gather 'each_update' acts on slices"),
        ({}, {"reduce": "each_update"}, "reduce 'each_update' acts on slices"),
        ({}, {"sharding": "fsdp2", "num_processes": 2, "lora": {}}, "fit without it"),
        ({}, {"compile": True, "gradient_checkpointing": "selective"}, "keeps nothing of compiled blocks"),
    ],
)
def test_what_cannot_learn_is_refused(model: dict[str, object], train: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig.model_validate({"model": model, "train": train})
