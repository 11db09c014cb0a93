"""What is counted on tensors without storage is what real tensors do."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from srpo.config import ModelConfig, RunConfig, ScoreConfig, load_config
from srpo.errors import ConfigError
from srpo.flow import shifted_sigmas
from srpo.forecast import cost
from srpo.forecast.cost import BYTES, Cost, count
from srpo.forecast.cuda_rules import compute_as_quantised, cuda_autocast
from srpo.forecast.price import num_drawn, predict, price
from srpo.forecast.weightless import LiveBytes, tensors_of
from srpo.gpus import ALLOCATOR
from srpo.hub import resolve
from srpo.models import load_model, load_text_encoder, model_skeleton, text_skeleton
from srpo.models.weights import in_blocks
from srpo.prompts.encode import BATCH
from srpo.rewards import load_reward, reward_skeleton
from srpo.rewards.measured import score_bytes
from srpo.rollout import sample, seeded_noise
from srpo.shapes import SIZE
from tests.conftest import CONFIG

FOLDER = resolve("builtin:shapes", "model")


def config_of(*overrides: str) -> RunConfig:
    return load_config(CONFIG, ("train.batch_size=2", *overrides))


@cache
def cost_of(*overrides: str) -> Cost:
    """Of the Shapes model and its reward; counted once for all that ask."""
    config = config_of(*overrides)
    reward = reward_skeleton(config.reward, resolve(config.reward.source, "reward"))
    counted = count(config, model_skeleton(config.model, FOLDER), [reward], text_skeleton(config.model, FOLDER))
    assert counted
    return counted


def test_a_forward_counts_as_on_real_tensors() -> None:
    model = load_model(config_of().model, FOLDER)
    noise = seeded_noise(model.latent_shape(SIZE, SIZE), [0])
    with FlopCounterMode(display=False) as counter:
        sample(model, model.blank_embeddings(1, 12), noise, torch.tensor([1.0, 0.0]), 3.5)
    counted = cost_of()
    assert counted.forward == counter.get_total_flops()
    assert counted.rollout == 2 * 8 * counted.forward


def test_a_held_out_image_counts_as_on_real_tensors() -> None:
    """Eight steps with guidance, the VAE, the reward."""
    config = config_of("evaluation.num_steps=8")
    model = load_model(config.model, FOLDER)
    reward = load_reward(config.reward, resolve(config.reward.source, "reward"))
    noise = seeded_noise(model.latent_shape(SIZE, SIZE), [0])
    reward(torch.zeros(1, 3, SIZE, SIZE), [""])  # texts are encoded once
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        x0 = sample(model, model.blank_embeddings(1, 12), noise, shifted_sigmas(8, 3.0), 3.5)
        reward(model.decode(x0), [""])
    assert cost_of("evaluation.num_steps=8").held_out == counter.get_total_flops()


OPERATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "layer_norm": lambda x: functional.layer_norm(x, (8,)),
    "rms_norm": lambda x: functional.rms_norm(x, (8,)),
    "group_norm": lambda x: functional.group_norm(x, 2),
    "nearest": lambda x: functional.interpolate(x, scale_factor=2.0),
    "bilinear": lambda x: functional.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "bicubic": lambda x: functional.interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True),
    "softmax": lambda x: x.softmax(-1),
    "power": lambda x: x**2,
    "rsqrt": torch.rsqrt,
    "exp": torch.exp,
    "softplus": functional.softplus,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "product": lambda x: x.float() @ x.mT,
    "attention": lambda x: functional.scaled_dot_product_attention(x.float(), x, x),
    "sum": lambda x: x + x.float(),
    "join": lambda x: torch.cat([x, x.float()]),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_results_are_kept_as_autocast_on_cuda_keeps_them(name: str) -> None:
    """Asked of CUDA's own rules, on tensors that only say that they lie there."""
    found = {}
    with FakeTensorMode(), cuda_autocast():
        for device in ("cpu", "cuda"):
            x = torch.empty(2, 4, 8, 8, device=device, dtype=torch.bfloat16)
            torch.set_autocast_dtype(device, torch.bfloat16)
            torch.set_autocast_enabled(device, True)
            try:
                found[device] = OPERATIONS[name](x).dtype
            finally:
                torch.set_autocast_enabled(device, False)
    assert found["cpu"] == found["cuda"]


def test_cudas_rules_end_with_the_count() -> None:
    cost_of.__wrapped__()
    with torch.autocast("cpu", torch.bfloat16):
        assert functional.layer_norm(torch.ones(2, 8, dtype=torch.bfloat16), (8,)).dtype == torch.bfloat16


@pytest.mark.parametrize("weights", ["int8", "nf4"])
def test_a_quantised_layer_keeps_what_the_real_one_keeps(weights: Literal["int8", "nf4"], flux_folder: Path) -> None:
    """Bytes for the backward pass: torchao's layers keep a copy of their weight, bitsandbytes' do not."""
    real, counted = (load_model(ModelConfig(weights=kept), flux_folder).transformer for kept in (weights, "bf16"))
    compute_as_quantised(counted, weights)
    kept = []
    for transformer in (real, counted):
        layer = transformer.transformer_blocks[0].ff.net[0].proj.requires_grad_(False)
        x = torch.zeros(2, layer.in_features, requires_grad=True)
        saved: list[torch.UntypedStorage] = []

        def note(tensor: torch.Tensor, saved: list[torch.UntypedStorage] = saved) -> torch.Tensor:
            saved.append(tensor.untyped_storage())
            return tensor

        with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(note, lambda same: same):
            assert layer(x).dtype == torch.bfloat16
        own = layer.weight.untyped_storage()._cdata
        kept.append(sum(storage.nbytes() for storage in saved if storage._cdata != own))
    assert kept[1] == pytest.approx(kept[0], rel=0.01)  # scales, of the rows
    copy = layer.weight.numel() * 2
    assert (kept[0] >= copy) == (weights == "int8")


def test_an_int8_base_costs_a_copy_of_its_weights_where_nothing_is_recomputed() -> None:
    lora = "train.lora={rank: 1}", "train.precision=bf16"
    bf16, int8 = (cost_of(*lora, f"model.weights={weights}") for weights in ("bf16", "int8"))
    blocks = load_model(config_of().model, FOLDER).transformer.named_modules()
    copies = 2 * sum(module.weight.numel() for name, module in blocks if in_blocks(module, name))
    assert int8.working - bf16.working > 0.6 * copies
    full = (*lora, "model.weights=int8", "train.gradient_checkpointing=full")
    assert cost_of(*full).working < int8.working - 0.5 * copies


def test_recomputing_trades_work_for_memory() -> None:
    """Under an adapter, whose gradients take no memory to speak of."""
    kinds = ("none", "selective", "full")
    none, selective, full = (
        cost_of("train.lora={rank: 1}", "train.vae_checkpointing=true", f"train.gradient_checkpointing={kept}")
        for kept in kinds
    )
    assert none.gradient == selective.gradient < full.gradient
    assert full.working < none.working
    assert full.gradient - none.gradient == pytest.approx(2 * full.forward, rel=0.1)


def test_accumulation_and_injections_multiply_the_work_alone() -> None:
    one, four = cost_of(), cost_of("train.accumulation=2", "align.num_injections=2")
    assert four.gradient == 4 * one.gradient
    assert four.rollout == 2 * one.rollout
    assert four.memory == one.memory


def test_each_method_is_counted_by_its_own_steps() -> None:
    """Rollouts of 8 steps; a step with gradient costs the same in all methods, and DRaFT-LV takes three."""
    methods = ("direct_align", "refl", "{name: draft_lv, num_copies: 2}")
    direct, refl, draft = (cost_of(f"method={method}") for method in methods)
    srpo = cost_of()
    assert [cost.rollout / 2 / cost.forward for cost in (srpo, direct, refl, draft)] == [8, 8, 6.5, 7]
    assert refl.gradient == direct.gradient == srpo.gradient, "shapes.yaml has one branch"
    assert draft.gradient == 3 * refl.gradient
    assert draft.memory == pytest.approx(refl.memory, rel=1e-3), "the copies come one after the other"


def test_added_rewards_are_counted() -> None:
    config = config_of("rewards={again: {source: 'builtin:shapes', architecture: shapes-vit.json}}")
    source = resolve(config.reward.source, "reward")
    rewards = [reward_skeleton(reward, source) for reward in config.all_rewards.values()]
    both = count(config, model_skeleton(config.model, FOLDER), rewards, text_skeleton(config.model, FOLDER))
    one = cost_of()
    size = sum(value.numel() * value.element_size() for value in rewards[1].parameters())
    assert both.weights == one.weights + size
    assert one.gradient < both.gradient < 1.2 * one.gradient


def test_solvers_and_reuse_change_how_often_a_rollout_asks_the_model() -> None:
    one = cost_of()
    assert cost_of("rollout.solver=heun").rollout == 2 * (2 * 8 - 1) * one.forward
    assert cost_of("rollout.reuse=4").rollout == one.rollout / 4


def test_merging_an_adapter_keeps_a_copy_of_what_it_adapts() -> None:
    """Counted where these weights outweigh the activations of a small picture, which are computed again."""
    names = ("proj_mlp", "proj_out", "to_q", "to_k", "to_v", "to_out.0", "linear")
    small = ("model.height=16", "model.width=16", "train.gradient_checkpointing=full", "train.vae_checkpointing=true")
    lora = f"train.lora={{rank: 1, target_modules: [{', '.join(names)}]}}"
    weights = load_model(config_of().model, FOLDER).transformer.state_dict().items()
    copies = sum(w.nbytes for name, w in weights if f".{name}".endswith(tuple(f".{part}.weight" for part in names)))
    assert cost_of(lora, *small).working < copies == cost_of(lora, *small, "rollout.merge_lora=true").working


def test_live_bytes_rise_and_fall_and_views_are_free() -> None:
    known = torch.zeros(100)
    with LiveBytes([known]) as live:
        made = torch.ones(50) * 2
        assert (live.now, live.peak) == (200, 400)
        view = made[:10]
        also = known.view(10, 10)
        assert live.now == 200
        del made, view, also
        assert live.now == 0


@pytest.mark.parametrize("weights", ["int8", "nf4"])
def test_quantised_weights_take_the_bytes_that_are_predicted(weights: str) -> None:
    """Storage of a really quantised block layer, scales and all."""
    transformer = load_model(ModelConfig(weights=weights), FOLDER).transformer
    plain = load_model(ModelConfig(weights="bf16"), FOLDER).transformer
    predicted = real = 0.0
    for name, module in plain.named_modules():
        if in_blocks(module, name):
            predicted += module.weight.numel() * BYTES[weights]
            weight = transformer.get_submodule(name).weight
            if weights == "nf4":
                real += weight.numel() * weight.element_size() + weight.quant_state.absmax.numel() * 4
            else:
                real += sum(getattr(weight, part).nbytes for part in weight.__tensor_flatten__()[0])
    assert real == pytest.approx(predicted, rel=0.04)  # int8: four bytes for every row, here of 128 values


def test_an_encoder_takes_what_it_takes_on_real_tensors() -> None:
    config = config_of()
    encoder = load_text_encoder(config.model, FOLDER)
    parts = encoder.pipeline.text_encoder, encoder.pipeline.text_encoder_2
    known = list(tensors_of(parts))
    with torch.no_grad(), LiveBytes(known) as live:
        parts[1](input_ids=torch.zeros(BATCH, config.model.max_sequence_length, dtype=torch.long))
    counted = cost.embedding(config, text_skeleton(config.model, FOLDER))
    real = live.peak + sum(tensor.nbytes for tensor in known)
    assert counted == pytest.approx(real, rel=0.05)  # with another attention kernel


def test_qwens_encoder_too(qwen_folder: Path) -> None:
    """Its pipeline calls it with the template around the prompt, for the states of all layers."""
    config = RunConfig(model=ModelConfig(family="qwen_image", max_sequence_length=12))
    encoder = load_text_encoder(config.model, qwen_folder).pipeline.text_encoder
    known = list(tensors_of([encoder]))
    ids = torch.zeros(BATCH, 12 + 34, dtype=torch.long)
    with torch.no_grad(), LiveBytes(known) as live:
        encoder(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
    counted = cost.embedding(config, text_skeleton(config.model, qwen_folder))
    assert counted == pytest.approx(live.peak + sum(tensor.nbytes for tensor in known), rel=0.05)


def test_a_count_with_too_little_room_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cost_of()

    def count_in(room: float) -> Cost | None:
        reward = reward_skeleton(config_of().reward, resolve("builtin:shapes", "reward"))
        text = text_skeleton(config_of().model, FOLDER)
        return count(config_of(), model_skeleton(config_of().model, FOLDER), [reward], text, room)

    assert count_in(whole.memory) == whole
    assert count_in(whole.memory - 1) is None
    monkeypatch.setattr(cost, "_gradient", None)  # nothing is run through
    assert count_in(whole.weights) is None


def test_held_out_scores_lie_beside_the_run(hps_folder: Path) -> None:
    """All of them in an evaluation; in training those that the monitor names, while it is measured."""
    held = score_bytes("held", ScoreConfig(family="hps", source=str(hps_folder), architecture="tiny.json"))
    size = "train.lora={rank: 1}", "train.gradient_checkpointing=full", "evaluation.batch_size=120"
    named = f"evaluation.scores={{held: {{family: hps, source: {hps_folder}, architecture: tiny.json}}}}"
    bare = cost_of(*size)
    measured = bare.weights + bare.optimizer + bare.watching + held
    assert bare.phases["train"] < bare.evaluate + held < measured
    for settings, needed in (
        ((named,), bare.evaluate + held),
        ((named, "monitor.bounds=[{metric: held, min_change: 0}]"), measured),
    ):
        predicted = price(config_of(*size, *settings), "4090").memory
        assert predicted / ALLOCATOR * 2**30 == pytest.approx(needed)


def test_an_evaluation_is_predicted_for_the_prompts_that_it_draws() -> None:
    """The world holds out 30, half of them for the monitor here; a file that lies elsewhere is taken to hold enough."""
    config = config_of("evaluation.num_prompts=200", "monitor.share=0.5")
    few, many = (config_of(f"evaluation.num_prompts={count}", "monitor.share=0.5") for count in (10, 15))
    absent = config_of("evaluation.num_prompts=200", "prompts.held_out=/nowhere.txt")
    assert [num_drawn(each) for each in (few, many, config, absent)] == [10, 15, 15, 200]
    cost = cost_of()
    hours = [predict(each, cost, "4090").evaluation_hours for each in (few, many, config)]
    assert hours[2] == hours[1] == pytest.approx(1.5 * hours[0])
    rounded = config.model_copy(update={"model": config.model.model_copy(update={"weights": "bf16"})})
    assert config.model.weights == "fp32"
    assert hours[2] == 2 * predict(rounded, cost, "4090").evaluation_hours, "whole weights are drawn in TF32"


def test_a_gpu_is_predicted_to_hold_the_run_or_not() -> None:
    config = config_of()
    prediction = price(config, "4090")
    assert prediction.fits
    assert 0 < prediction.floor_per_update < prediction.seconds_per_update
    huge = cost_of().model_copy(update={"weights": 30 * 2**30})
    assert not predict(config, huge, "4090").fits
    embedding = predict(config, cost_of().model_copy(update={"embed": 30 * 2**30}), "4090")
    assert (embedding.fits, embedding.phase) == (False, "embed")
    with pytest.raises(ConfigError, match=r"--gpu 8800GT: not in the list; choose from 3090, 4090"):
        price(config, "8800GT")
