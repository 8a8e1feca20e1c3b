"""Background noise in training clips: recorded, white or pink, at a ratio, a share or a level."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self, TypeAlias

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from bclef.chances import between, check_range, chosen
from bclef.config import Section
from bclef.levels import SILENCE, amplitude, peak, rms
from bclef.rowwise import change_rows

NoiseKind: TypeAlias = Literal["recordings", "white", "pink"]
NoiseMode: TypeAlias = Literal["snr_rms", "snr_peak", "blend", "amplitude"]

LIMITS: dict[NoiseMode, tuple[float, float]] = {
    "snr_rms": (-40.0, 60.0),
    "snr_peak": (-40.0, 60.0),
    "blend": (0.0, 1.0),
    "amplitude": (-120.0, 0.0),
}
"""What `low` and `high` may be."""


class NoiseAdder(Section):
    """One adder of noise (an entry of `train.noise`)."""

    kind: NoiseKind
    """Recordings of role `noise`, or white or pink noise made on the spot."""
    recordings: str = Field(min_length=1)
    """Glob over recording ids, such as `ff1010bird-*`; only for kind `recordings`."""
    mode: NoiseMode
    """What `low` and `high` are: signal-to-noise ratios in dB by root mean square of the crop
    (`snr_rms`) or by its peak (`snr_peak`), shares of the noise from 0 to 1 (`blend`), or levels of
    the noise in dBFS by root mean square, whatever the clip's (`amplitude`)."""
    low: float
    """Least amount, dB, share or dBFS."""
    high: float
    """Greatest amount."""
    probability: float = Field(ge=0, le=1)
    """Chance of a clip to get this noise."""

    @model_validator(mode="after")
    def _amounts_are_a_range(self) -> Self:
        check_range(self, "low", "high")
        least, most = LIMITS[self.mode]
        if not least <= self.low <= self.high <= most:
            raise ValueError(
                f"low {self.low} and high {self.high} of mode {self.mode} must lie between "
                f"{least} and {most}"
            )
        return self


class NoiseDraw(NamedTuple):
    """K rows that one adder adds noise to."""

    rows: Tensor
    """Which, int64 [K]."""
    amount: Tensor
    """How much, float32 [K]: dB, share or dBFS by the adder's mode."""
    seed: Tensor
    """Of the noise, or of the choice of its recording and crop, int64 [K], not negative."""
    kind: NoiseKind
    """The adder's."""
    mode: NoiseMode
    """The adder's."""


def draw_noises(
    adders: Sequence[NoiseAdder], n_rows: int, generator: Generator, *, at_most_one: bool
) -> tuple[NoiseDraw, ...]:
    """Returns one draw per adder, in their order.

    Args:
        adders: The adders.
        n_rows: Clips that may get noise.
        generator: Of the draws.
        at_most_one: Their probabilities are shares of one choice, else each is on its own.
    """
    choice, below, draws = torch.rand(n_rows, generator=generator), 0.0, []
    for adder in adders:
        if at_most_one:
            above = below + adder.probability
            rows = ((choice >= below) & (choice < above)).nonzero()[:, 0]
            below = above
        else:
            rows = chosen(adder.probability, n_rows, generator)
        amount = between(adder.low, adder.high, len(rows), generator)
        seed = torch.randint(2**63 - 1, (len(rows),), generator=generator)
        draws.append(NoiseDraw(rows, amount, seed, adder.kind, adder.mode))
    return tuple(draws)


def add_noises(
    wave: Tensor, recorded: Tensor, draws: Sequence[NoiseDraw], *, in_place: bool = False
) -> Tensor:
    """Returns `wave` [R, T] plus the noise of each adder, one after another.

    Silent noise adds nothing, and nor does a ratio to a silent clip. A blended noise is brought to
    the clip's peak first, as where both are peak-normalised.

    Args:
        wave: The clips.
        recorded: [K, T]: a row for each row of each draw of kind `recordings`, in their order.
        draws: Of the adders.
        in_place: Whether `wave` may be changed, or else a copy is.

    Raises:
        ValueError: `recorded` has more or fewer rows than the draws.

    Source:
        docs/formulas.md E21 (`snr_peak`; `snr_rms` is the same by root mean square), E22 (`blend`,
        by the peak of the crop, not of the file).
    """
    n_rows = [len(draw.rows) if draw.kind == "recordings" else 0 for draw in draws]
    if sum(n_rows) != len(recorded):
        raise ValueError(f"{len(recorded)} rows of recorded noise for draws of {n_rows}")
    if not any(len(draw.rows) for draw in draws):
        return wave
    result = wave if in_place else wave.clone()
    for draw, noise in zip(draws, recorded.split(n_rows), strict=True):
        if len(draw.rows):
            _add(result, noise if draw.kind == "recordings" else made(wave, draw), draw)
    return result


def _add(wave: Tensor, noise: Tensor, draw: NoiseDraw) -> None:
    def add_some(clean: Tensor, which: slice) -> None:
        part, amount = noise[which].to(wave.dtype), draw.amount[which].to(wave.dtype)
        measure = rms if draw.mode in ("snr_rms", "amplitude") else peak
        own, other = measure(clean), measure(part)
        if draw.mode == "amplitude":
            aimed = amplitude(amount)
        elif draw.mode == "blend":
            aimed = own * amount
            clean.mul_((1 - amount)[:, None])
        else:
            aimed = own / amplitude(amount)
        factor = torch.where(other > SILENCE, aimed / other.clamp(min=SILENCE), 0.0)
        clean.addcmul_(part, factor[:, None])

    change_rows(wave, draw.rows, add_some)


def made(wave: Tensor, draw: NoiseDraw) -> Tensor:
    """Returns white or pink noise of mean square about 1 for the rows of `draw`, as `wave` is.

    Each row depends on its seed and on the kind of device alone.
    """
    white = torch.stack([_white(wave, seed) for seed in draw.seed.tolist()])
    if draw.kind == "white":
        return white
    spectrum = torch.fft.rfft(white.float())
    bins = torch.arange(spectrum.shape[1], device=wave.device)
    # Power falls as 1 / f; what has no frequency has no place in it.
    shape = torch.where(bins > 0, bins.clamp(min=1) ** -0.5, 0.0)
    shape = shape / shape.square().mean().sqrt()
    return torch.fft.irfft(spectrum * shape, n=wave.shape[1]).to(wave.dtype)


def _white(wave: Tensor, seed: int) -> Tensor:
    generator = Generator(wave.device).manual_seed(seed)
    return torch.randn(wave.shape[1], generator=generator, device=wave.device, dtype=wave.dtype)
