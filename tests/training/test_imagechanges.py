from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from bclef.config import ConfigError
from bclef.imagechanges import (
    MaskDraw,
    PowerDraw,
    TiltDraw,
    draw_masks,
    draw_power,
    draw_tilt,
    mask_images,
    raise_images,
    tilt_images,
)
from tests.augmentations import settings

MASKS = {
    "time_probability": 0.5,
    "n_time": 3,
    "time_share": 0.2,
    "frequency_probability": 0.5,
    "n_frequency": 2,
    "frequency_share": 0.1,
}


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def images(n: int = 2, n_channels: int = 1) -> Tensor:
    return torch.randn(n, n_channels, 10, 20, generator=generator(5))


def masks_drawn(n_images: int = 4000, seed: int = 0, **overrides: Any) -> MaskDraw:
    config = settings(masks={**MASKS, "random_number": False, "per_batch": False, **overrides})
    return draw_masks(config.masks, n_images, generator(seed))


def one_of_each(fill: Any = "mean") -> MaskDraw:
    """Frames 10 to 13 and bands 0 to 2 of image 0."""
    time_first, time_width, first, width = torch.tensor([0.5, 0.2, 0.0, 0.3])[:, None, None]
    return MaskDraw(torch.tensor([0]), time_first, time_width, first, width, fill)


def test_tilt_is_a_ramp_that_ends_at_its_corner() -> None:
    draw = TiltDraw(torch.tensor([1]), torch.tensor([0.5]), torch.tensor([0.4]))
    corner = 5 + 2
    ramp = np.concatenate([1 - 0.4 * np.arange(corner) / corner, np.full(10 - corner, 0.6)])
    found = tilt_images(images(), draw)
    np.testing.assert_allclose(found[1, 0], images()[1, 0].numpy() * ramp[:, None], atol=1e-6)
    assert torch.equal(found[0], images()[0])


@pytest.mark.parametrize("n_bands", [1, 2, 3, 64])
def test_corner_of_the_tilt_lies_in_the_upper_half(n_bands: int) -> None:
    image = torch.ones(50, 1, n_bands, 1)
    draw = TiltDraw(torch.arange(50), torch.linspace(0, 0.999, 50), torch.full((50,), 0.5))
    found = tilt_images(image, draw)[:, 0, :, 0]
    corners = (found > 0.5).sum(dim=1)
    assert corners.min() >= max(1, n_bands // 2)
    assert corners.max() <= max(1, n_bands - 1)
    if n_bands > 1:
        assert set(corners.tolist()) == set(range(max(1, n_bands // 2), n_bands))


def test_power_keeps_the_sign() -> None:
    draw = PowerDraw(torch.tensor([0]), torch.tensor([1.7]))
    x = images()[0].numpy()
    found = raise_images(images(), draw)
    np.testing.assert_allclose(found[0], np.sign(x) * np.abs(x) ** 1.7, atol=1e-6)
    assert torch.equal(found[1], images()[1])


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize("fill", ["mean", "min", "zero"])
def test_mask_covers_its_share_of_each_axis(fill: str, n_channels: int) -> None:
    image = images(n_channels=n_channels)
    masked = mask_images(image, one_of_each(fill))
    assert torch.equal(masked[1], image[1])
    for found, channel in zip(masked[0], image[0], strict=True):
        changed = found != channel
        expected = torch.zeros(10, 20, dtype=torch.bool)
        expected[:3] = expected[:, 10:14] = True
        value = {"mean": channel.mean(), "min": channel.min(), "zero": torch.tensor(0.0)}[fill]
        torch.testing.assert_close(found[expected], value.expand(3 * 20 + 4 * 7))
        assert not changed[~expected].any()


def test_tilt_and_power_are_drawn_by_their_chances_and_ranges() -> None:
    config = settings(
        tilt={"probability": 0.5, "max_share": 0.4},
        power={"probability": 0.3, "exponent_min": 0.5, "exponent_max": 3.0},
    )
    tilt = draw_tilt(config.tilt, 4000, generator())
    power = draw_power(config.power, 4000, generator())
    assert len(tilt.rows) / 4000 == pytest.approx(0.5, abs=0.03)
    assert len(power.rows) / 4000 == pytest.approx(0.3, abs=0.03)
    for values, low, high in [
        (tilt.lost_share, 0.0, 0.4),
        (tilt.corner_share, 0.0, 1.0),
        (power.exponent, 0.5, 3.0),
    ]:
        quarters = np.histogram(values, bins=4, range=(low, high))[0] / len(values)
        np.testing.assert_allclose(quarters, 0.25, atol=0.06)


def test_masks_are_drawn_by_their_chances_and_ranges() -> None:
    draw = masks_drawn()
    in_time, in_frequency = (width.any(dim=1) for width in (draw.time_width, draw.frequency_width))
    assert in_time.sum().item() / 4000 == pytest.approx(0.5, abs=0.03)
    assert in_frequency.sum().item() / 4000 == pytest.approx(0.5, abs=0.03)
    assert (in_time & in_frequency).sum().item() / 4000 == pytest.approx(0.25, abs=0.03)
    assert (in_time | in_frequency).all()
    assert draw.time_width.shape[1] == 3
    assert draw.time_width.max() <= 0.2
    assert draw.frequency_width.max() <= 0.1
    assert (draw.time_first + draw.time_width).max() <= 1
    assert draw.time_first.min() >= 0


def test_number_of_masks_may_be_drawn_too() -> None:
    draw = masks_drawn(random_number=True, time_probability=1.0, n_frequency=0)
    numbers = (draw.time_width > 0).sum(dim=1)
    np.testing.assert_allclose(numbers.bincount(minlength=4) / 4000, 0.25, atol=0.03)


def test_one_chance_may_decide_for_the_whole_batch() -> None:
    draws = [masks_drawn(5, seed, per_batch=True) for seed in range(400)]
    masked = [each for each in draws if len(each.rows)]
    assert {len(each.rows) for each in masked} == {5}
    assert len(masked) / 400 == pytest.approx(0.5, abs=0.08)
    for each in masked:
        assert each.time_width.all()
        assert each.frequency_width.all()
        assert each.time_first[:, 0].unique().numel() == 5


def test_no_masks_are_no_rows() -> None:
    assert len(masks_drawn(n_time=0, n_frequency=0).rows) == 0
    assert len(masks_drawn(time_probability=0.0, frequency_probability=0.0).rows) == 0
    assert len(masks_drawn(0).rows) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_changes_keep_shape_and_type_and_are_finite_on_silence(dtype: torch.dtype) -> None:
    for image in (torch.zeros(2, 3, 10, 20, dtype=dtype), images(2, 3).to(dtype)):
        before = image.clone()
        for found in (
            tilt_images(image, TiltDraw(*torch.tensor([[0], [0], [1]]))),
            raise_images(image, PowerDraw(torch.tensor([0]), torch.tensor([0.5]))),
            mask_images(image, one_of_each()),
        ):
            assert (found.shape, found.dtype) == (image.shape, dtype)
            assert found.isfinite().all()
        assert torch.equal(image, before)


def test_inverted_exponents_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"exponent_min 3\.0 exceeds exponent_max 2\.0"):
        settings(power={"exponent_min": 3.0, "exponent_max": 2.0})
