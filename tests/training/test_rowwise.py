"""Changes of some rows: in place on a CPU, all at once elsewhere, with one result."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bclef.augment import AugmentConfig, Clips, augment_waves, draw
from bclef.config import read_yaml
from bclef.rowwise import change_rows, rows_of

PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.fixture(params=[True, False], ids=["one by one", "at once"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr("bclef.rowwise._one_by_one", lambda _: request.param)
    return bool(request.param)


def scaled(factors: Tensor) -> Callable[[Tensor, slice], object]:
    return lambda part, which: part.mul_(factors[which, None])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("rows", [[], [2], [3, 0, 1]])
def test_given_rows_change_and_no_others(rows: list[int]) -> None:
    batch = torch.arange(1.0, 9.0).view(4, 2)
    expected, factors = batch.clone(), torch.tensor([10.0, 100.0, 1000.0])[: len(rows)]
    for row, factor in zip(rows, factors, strict=True):
        expected[row] *= factor
    change_rows(batch, torch.tensor(rows, dtype=torch.int64), scaled(factors))
    assert torch.equal(batch, expected)


@pytest.mark.usefixtures("way")
def test_rows_are_those_asked_for() -> None:
    batch = torch.arange(8.0).view(4, 2)
    assert rows_of(batch, torch.tensor([2])).tolist() == [[4, 5]]
    assert rows_of(batch, torch.tensor([3, 1])).tolist() == [[6, 7], [2, 3]]


def test_waves_are_the_same_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the mixup and noise of params.yaml; the arguments stay as they are."""
    config = AugmentConfig.from_tree(
        {
            name: value
            for name, value in read_yaml(PARAMS)["train"].items()
            if name in AugmentConfig.model_fields
        },
        "params.yaml",
    )
    generator = torch.Generator().manual_seed(0)
    draws = draw(config, 16, 0, generator)
    wave = torch.randn(16, 500, generator=generator)
    noise = torch.randn(len(draws.noise[0].rows), 500, generator=generator)
    assert min(len(draws.mixup.second.rows), len(noise)) > 2
    labels = torch.zeros(16, 3), torch.ones(16, 3), torch.ones(16)
    found = []
    for one_by_one in (True, False):
        monkeypatch.setattr("bclef.rowwise._one_by_one", lambda _, is_so=one_by_one: is_so)
        before = wave.clone(), noise.clone()
        found.append(augment_waves(Clips(wave, *labels), noise, draws, 8000).signal)
        assert torch.equal(wave, before[0])
        assert torch.equal(noise, before[1])
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-6)
    assert not torch.equal(found[0], wave)
