"""Slices of a model, as one of two processes reads them; that they train as the whole does is seen in test_launch."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed
from torch.distributed.tensor.debug import CommDebugMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from srpo.config import ModelConfig
from srpo.models import load_model, load_without_transformer
from srpo.rounding import on_bf16_grid, rounded
from srpo.sharding import defer_reduction, fill_weights, release, shard


@pytest.fixture
def second_of_two() -> Iterator[SimpleNamespace]:
    """What `shard` asks an Accelerator for, in a process group whose first process is not there."""
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=1, world_size=2)
    yield SimpleNamespace(device=torch.device("cpu"), num_processes=2, mixed_precision="no")
    torch.distributed.destroy_process_group()


def test_a_process_reads_its_slices_and_no_more(flux_folder: Path, second_of_two: SimpleNamespace) -> None:
    transformer = load_without_transformer(ModelConfig(), flux_folder).transformer
    assert all(parameter.is_meta for parameter in transformer.parameters())
    shard(transformer, flux_folder / "transformer", second_of_two)  # type: ignore[arg-type]
    whole = load_model(ModelConfig(), flux_folder).transformer.state_dict()
    sliced = dict(transformer.named_parameters())
    assert sliced.keys() == whole.keys()
    for name, parameter in sliced.items():
        mine, (_, expected) = parameter.to_local(), whole[name].chunk(2)  # type: ignore[attr-defined]
        assert parameter.shape == whole[name].shape
        assert torch.equal(mine, expected)
        assert mine.untyped_storage().nbytes() == expected.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_goes_on_from_its_slices_of_other_weights(
    dtype: torch.dtype, flux_folder: Path, second_of_two: SimpleNamespace, tmp_path: Path
) -> None:
    other = load_model(ModelConfig(), flux_folder).transformer
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.save_pretrained(tmp_path)
    transformer = load_without_transformer(ModelConfig(), flux_folder).transformer.to(dtype)
    shard(transformer, flux_folder / "transformer", second_of_two)  # type: ignore[arg-type]
    before = list(transformer.parameters())
    fill_weights(transformer, tmp_path)
    assert all(now is then for now, then in zip(transformer.parameters(), before, strict=True)), "an optimizer has them"
    for name, parameter in transformer.named_parameters():
        expected = rounded(name, other.state_dict()[name], dtype)  # the whole, so that all processes round alike
        assert torch.equal(parameter.to_local(), expected.chunk(2)[1])  # type: ignore[operator]


def test_slices_are_rounded_and_brought_back_bit_for_bit(flux_folder: Path, second_of_two: SimpleNamespace) -> None:
    transformer = load_without_transformer(ModelConfig(), flux_folder).transformer
    shard(transformer, flux_folder / "transformer", second_of_two)  # type: ignore[arg-type]
    slices = {name: weight.to_local() for name, weight in transformer.named_parameters()}  # type: ignore[attr-defined]
    before = {name: weight.detach().clone() for name, weight in slices.items()}
    with on_bf16_grid(transformer):
        assert all(torch.equal(weight, rounded(name, before[name]).float()) for name, weight in slices.items())
        assert any(not torch.equal(weight, before[name]) for name, weight in slices.items())
    assert all(torch.equal(weight, before[name]) for name, weight in slices.items())


def test_what_is_kept_is_gathered_once_until_it_is_released(flux_folder: Path, second_of_two: SimpleNamespace) -> None:
    def gathers(keep: bool) -> list[int]:
        """Collectives of two passes, and of one after a release."""
        model = load_without_transformer(ModelConfig(), flux_folder)
        shard(model.transformer, flux_folder / "transformer", second_of_two, keep)  # type: ignore[arg-type]
        noise, embeddings = torch.zeros(1, *model.latent_shape(16, 16)), model.blank_embeddings(1, 8)
        counts = []
        for each in range(3):
            if each == 2:
                release(model.transformer)
            with torch.no_grad(), CommDebugMode() as collectives:
                model.velocity(noise, torch.full((1,), 0.5), embeddings, 1.0)
            counts.append(collectives.get_total_counts())
        return counts

    first, again, after = gathers(keep=False)  # a collective for each block
    assert first == again == after > 0
    assert gathers(keep=True) == [first, 0, first]


def test_deferred_gradients_are_reduced_with_the_last(flux_folder: Path, second_of_two: SimpleNamespace) -> None:
    model = load_without_transformer(ModelConfig(), flux_folder)
    shard(model.transformer, flux_folder / "transformer", second_of_two)  # type: ignore[arg-type]
    noise, embeddings = torch.zeros(1, *model.latent_shape(16, 16)), model.blank_embeddings(1, 8)
    reductions = []
    for more in (True, True, False):
        defer_reduction(model.transformer, more)
        with CommDebugMode() as collectives:
            model.velocity(noise, torch.full((1,), 0.5), embeddings, 1.0).sum().backward()
        counts = {str(kind): count for kind, count in collectives.get_comm_counts().items()}
        reductions.append(sum(count for kind, count in counts.items() if "reduce_scatter" in kind))
    assert reductions[:2] == [0, 0] and reductions[2] > 0
