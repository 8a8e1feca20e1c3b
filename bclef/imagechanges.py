"""Changes of log-mel images: tilt along frequency, power, masks."""

from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from bclef.chances import between, check_range, chosen
from bclef.config import Section


class TiltConfig(Section):
    """High bands made weaker (section `train.tilt`)."""

    probability: float = Field(ge=0, le=1)
    """Chance of an image."""
    max_share: float = Field(ge=0, le=1)
    """Largest share that the highest bands lose."""


class PowerConfig(Section):
    """Contrast (section `train.power`)."""

    probability: float = Field(ge=0, le=1)
    """Chance of an image."""
    exponent_min: float = Field(gt=0, le=10)
    """Least exponent; below 1 lifts what is between 0 and 1."""
    exponent_max: float = Field(gt=0, le=10)
    """Greatest exponent; drawn uniformly."""

    @model_validator(mode="after")
    def _exponents_are_a_range(self) -> Self:
        check_range(self, "exponent_min", "exponent_max")
        return self


class MasksConfig(Section):
    """Hidden frames and bands (section `train.masks`)."""

    time_probability: float = Field(ge=0, le=1)
    """Chance of an image to get time masks."""
    n_time: int = Field(ge=0, le=16)
    """Time masks per image."""
    time_share: float = Field(ge=0, le=1)
    """Largest width of a time mask, as a share of the frames."""
    frequency_probability: float = Field(ge=0, le=1)
    """Chance of an image to get frequency masks."""
    n_frequency: int = Field(ge=0, le=16)
    """Frequency masks per image."""
    frequency_share: float = Field(ge=0, le=1)
    """Largest width of a frequency mask, as a share of the mel bands."""
    random_number: bool
    """Whether the number of masks is drawn too, from 0 to the above."""
    per_batch: bool
    """Whether one number decides for the whole batch, and for both axes, if there are masks; where
    they are is still drawn for each image."""
    fill: Literal["mean", "min", "zero"]
    """What masked places become: the mean or the least value of the image's channel, or 0."""


class TiltDraw(NamedTuple):
    """K rows that are tilted."""

    rows: Tensor
    """Which, int64 [K]."""
    corner_share: Tensor
    """Where between the middle and the highest band the ramp ends, 0 to 1, float32 [K]."""
    lost_share: Tensor
    """What is lost from there on, float32 [K]."""


class PowerDraw(NamedTuple):
    """K rows that are raised to a power."""

    rows: Tensor
    """Which, int64 [K]."""
    exponent: Tensor
    """To which, float32 [K]."""


class MaskDraw(NamedTuple):
    """K rows that are masked; places and widths are shares of an axis."""

    rows: Tensor
    """Which, int64 [K]."""
    time_first: Tensor
    """float32 [K, time masks]."""
    time_width: Tensor
    """float32 [K, time masks]; 0 for none."""
    frequency_first: Tensor
    """float32 [K, frequency masks]."""
    frequency_width: Tensor
    """float32 [K, frequency masks]; 0 for none."""
    fill: Literal["mean", "min", "zero"]
    """What masked places become."""


def draw_tilt(config: TiltConfig, n_rows: int, generator: Generator) -> TiltDraw:
    """Returns which of `n_rows` images are tilted, and how."""
    rows = chosen(config.probability, n_rows, generator)
    corner_share = torch.rand(len(rows), generator=generator)
    return TiltDraw(rows, corner_share, between(0.0, config.max_share, len(rows), generator))


def draw_power(config: PowerConfig, n_rows: int, generator: Generator) -> PowerDraw:
    """Returns which of `n_rows` images are raised to which power."""
    rows = chosen(config.probability, n_rows, generator)
    exponent = between(config.exponent_min, config.exponent_max, len(rows), generator)
    return PowerDraw(rows, exponent)


def draw_masks(config: MasksConfig, n_rows: int, generator: Generator) -> MaskDraw:
    """Returns the masks of a batch of `n_rows` images."""
    n_draws = (1, 1) if config.per_batch else (2, n_rows)
    chance = torch.rand(n_draws, generator=generator).expand(2, n_rows)
    in_time = (chance[0] < config.time_probability) & (config.n_time > 0)
    in_frequency = (chance[1] < config.frequency_probability) & (config.n_frequency > 0)
    rows = (in_time | in_frequency).nonzero()[:, 0]

    def axis(n_masks: int, share: float, masked: Tensor) -> tuple[Tensor, Tensor]:
        width = share * torch.rand(len(rows), n_masks, generator=generator) * masked[rows, None]
        if config.random_number:
            number = torch.randint(n_masks + 1, (len(rows), 1), generator=generator)
            width = width * (torch.arange(n_masks) < number)
        return (1 - width) * torch.rand(len(rows), n_masks, generator=generator), width

    return MaskDraw(
        rows,
        *axis(config.n_time, config.time_share, in_time),
        *axis(config.n_frequency, config.frequency_share, in_frequency),
        config.fill,
    )


def tilt_images(image: Tensor, draw: TiltDraw) -> Tensor:
    """Returns `image` [R, Ch, M, F] times a ramp along the bands.

    It falls from 1 at the lowest band to 1 - x at band r, from M / 2 to M - 1, and stays there.

    Source:
        The 2023 second place (LIHANG-HONG/birdclef2023-2nd-place-solution).
    """
    if not len(draw.rows):
        return image
    n_bands = image.shape[2]
    n_below = n_bands // 2
    corner = n_below + (draw.corner_share * (n_bands - n_below)).floor()
    corner = corner.clamp(1, max(1, n_bands - 1))
    band = torch.arange(n_bands, device=image.device)
    ramp = 1 - draw.lost_share[:, None] * (band / corner[:, None]).clamp(max=1.0)
    tilted = image[draw.rows] * ramp[:, None, :, None].to(image.dtype)
    return image.index_copy(0, draw.rows, tilted)


def raise_images(image: Tensor, draw: PowerDraw) -> Tensor:
    """Returns `image` [R, Ch, M, F] with sign(x) |x|^e for x."""
    if not len(draw.rows):
        return image
    chosen_images = image[draw.rows]
    exponent = draw.exponent[:, None, None, None].to(image.dtype)
    raised = chosen_images.sign() * chosen_images.abs().pow(exponent)
    return image.index_copy(0, draw.rows, raised)


def mask_images(image: Tensor, draw: MaskDraw) -> Tensor:
    """Returns `image` [R, Ch, M, F] with masked bands and frames filled, in all channels alike."""
    if not len(draw.rows):
        return image
    own = image[draw.rows]
    n_bands, n_frames = image.shape[2:]
    frames = _covered(draw.time_first, draw.time_width, n_frames)
    bands = _covered(draw.frequency_first, draw.frequency_width, n_bands)
    masked = bands[:, None, :, None] | frames[:, None, None, :]
    filled = torch.where(masked, _fill_value(own, draw.fill), own)
    return image.index_copy(0, draw.rows, filled)


def _fill_value(image: Tensor, fill: Literal["mean", "min", "zero"]) -> Tensor:
    """What masked places of `image` [K, Ch, M, F] become, [K, Ch, 1, 1]."""
    if fill == "mean":
        return image.mean(dim=(2, 3), keepdim=True)
    if fill == "min":
        return image.amin(dim=(2, 3), keepdim=True)
    return image.new_zeros(1, 1, 1, 1)


def _covered(first: Tensor, width: Tensor, n_places: int) -> Tensor:
    """Whether a place along an axis lies under one of the masks, bool [K, n_places]."""
    place = (torch.arange(n_places, device=first.device) + 0.5) / n_places
    after = place[None, None] - first[..., None]
    return ((after >= 0) & (after < width[..., None])).any(dim=1)
