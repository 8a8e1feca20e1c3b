"""Mixups: of waves, of images, and of the labels, loss masks and loss weights that go with them.

Every mixup is a list of pairs (row, partner) with the shares of either. Partners are taken as they
were before the mixup, so the order of rows does not matter, and a row without partner stays as it
is to the last bit.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Self, TypeAlias

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor

from bclef.chances import beta_shares, between, check_range, chosen
from bclef.config import Section
from bclef.levels import SILENCE, amplitude, peak, rms
from bclef.rowwise import change_rows, rows_of

LabelRule: TypeAlias = Literal["union", "max", "blend"]
"""Labels of mixed clips: their sum up to 1, the larger one, or both in their shares."""


_MATCHED: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda wave: torch.ones_like(wave[:, 0]),
    "rms": rms,
    "peak": peak,
}
"""What is equal of clip and partner before they are mixed."""


class MixupConfig(Section):
    """Mixing of waves within a batch (section `train.mixup`)."""

    probability: float = Field(ge=0, le=1)
    """Chance of a clip to be mixed with another one of its batch."""
    per_batch: bool
    """Whether chance, gain and share are drawn once for the whole batch, not for each clip."""
    signal: Literal["mean", "add", "blend"]
    """Of clip x and partner p with gain g: (x + g p) / 2, x + g p, or l x + (1 - l) p."""
    labels: LabelRule
    """Labels; where nothing is blended, the shares of `blend` are equal."""
    beta: float = Field(gt=0)
    """The share l of `blend` is drawn from Beta(beta, beta)."""
    gain_draw: Literal["db", "amplitude"]
    """Whether the gain g is drawn uniformly in dB or in amplitude; `blend` has none."""
    gain_min_db: float = Field(ge=-60, le=60)
    """Least gain g of the partner, dB."""
    gain_max_db: float = Field(ge=-60, le=60)
    """Greatest gain, dB."""
    match_level: Literal["none", "rms", "peak"]
    """Level of the clip that the partner is first brought to, if any."""
    third_probability: float = Field(ge=0, le=1)
    """Chance of a mixed clip to get a second partner; not with `blend`."""
    normalise_peak: bool
    """Whether mixed clips are brought to full scale."""

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        check_range(self, "gain_min_db", "gain_max_db")
        if self.signal == "blend" and self.third_probability:
            raise ValueError(
                f"third_probability {self.third_probability} goes with signal mean or add, "
                "not with blend; set it to 0"
            )
        return self


class SelectiveMixupConfig(Section):
    """Blending of images with scored clips (section `train.selective_mixup`)."""

    probability: float = Field(ge=0, le=1)
    """Chance of a batch, all of whose clips are then blended with one scored clip each."""
    beta: float = Field(gt=0)
    """The own share of each clip is drawn from Beta(beta, beta)."""


class ImageMixupConfig(Section):
    """Blending of images within a batch (section `train.image_mixup`)."""

    probability: float = Field(ge=0, le=1)
    """Chance of an image to be blended with another one of its batch."""
    per_batch: bool
    """Whether chance and share are drawn once for the whole batch, not for each image."""
    labels: LabelRule
    """Labels of blended images."""
    beta: float = Field(gt=0)
    """The own share is drawn from Beta(beta, beta)."""


class MixDraw(NamedTuple):
    """K rows and what is mixed into them."""

    rows: Tensor
    """Rows that change, int64 [K]."""
    partner: Tensor
    """Row that is mixed into each, int64 [K]."""
    own_share: Tensor
    """Factor of the row's own signal, float32 [K]."""
    partner_share: Tensor
    """Factor of the partner's signal, float32 [K]."""
    label_share: Tensor
    """Share of the row's own loss weight, and of its labels where they blend, float32 [K]."""
    labels: LabelRule
    """How labels are joined."""


class WaveMixDraw(NamedTuple):
    """What is mixed into the waves."""

    second: MixDraw
    """First partners."""
    third: MixDraw
    """Second partners, of some of the same rows; mixed in after the first."""
    match_level: Literal["none", "rms", "peak"]
    """Level of the clip that partners are brought to."""
    normalise_peak: bool
    """Whether mixed clips are brought to full scale."""


class Labels(NamedTuple):
    """What the loss asks of R clips."""

    target: Tensor
    """float32 [R, C], from 0 to 1."""
    mask: Tensor
    """float32 [R, C], 1 where the target is known."""
    weight: Tensor
    """float32 [R], weight in the loss."""


def draw_wave_mix(config: MixupConfig, n_clips: int, generator: Generator) -> WaveMixDraw:
    """Returns which of `n_clips` clips are mixed, and with which.

    All partners come from one random circle through the clips: the next one on it and, for a third,
    the one after. So no clip is mixed with itself, nor twice with the same one.
    """
    circle = torch.randperm(n_clips, generator=generator)
    place = circle.argsort()
    per_batch = config.per_batch
    mixed = chosen(config.probability * (n_clips > 1), n_clips, generator, per_batch=per_batch)
    chance = config.third_probability * (n_clips > 2)
    again = mixed[chosen(chance, len(mixed), generator, per_batch=per_batch)]

    def pairs(rows: Tensor, step: int) -> MixDraw:
        partner = circle[(place[rows] + step) % max(1, n_clips)]
        return MixDraw(rows, partner, *_wave_shares(config, step, len(rows), generator))

    return WaveMixDraw(pairs(mixed, 1), pairs(again, 2), config.match_level, config.normalise_peak)


def _wave_shares(
    config: MixupConfig, n_before: int, n: int, generator: Generator
) -> tuple[Tensor, Tensor, Tensor, LabelRule]:
    """Shares of `n` mixtures of `n_before` signals, mixed already, with one more."""
    n_draws = min(n, 1) if config.per_batch else n
    equal = torch.full((n,), n_before / (n_before + 1))
    if config.signal == "blend":
        own = beta_shares(config.beta, n_draws, generator).expand(n)
        return own, 1 - own, own if config.labels == "blend" else equal, config.labels
    gain = _gains(config, n_draws, generator).expand(n)
    if config.signal == "add":
        return torch.ones(n), gain, equal, config.labels
    return equal, gain / (n_before + 1), equal, config.labels


def _gains(config: MixupConfig, n: int, generator: Generator) -> Tensor:
    """Amplitude ratios of `n` partners."""
    least_db, greatest_db = config.gain_min_db, config.gain_max_db
    if config.gain_draw == "db":
        return amplitude(between(least_db, greatest_db, n, generator))
    return between(10 ** (least_db / 20), 10 ** (greatest_db / 20), n, generator)


def draw_selective_mix(
    config: SelectiveMixupConfig, n_clips: int, n_partners: int, generator: Generator
) -> MixDraw:
    """Returns the blending of the first `n_clips` rows with the `n_partners` after them, permuted.

    Fewer partners than clips serve several clips each; without any, nothing is blended.
    """
    probability = config.probability * (n_partners > 0)
    rows = chosen(probability, n_clips, generator, per_batch=True)
    order = torch.randperm(n_partners, generator=generator)
    own = beta_shares(config.beta, len(rows), generator)
    partner = n_clips + order[rows % max(1, n_partners)]
    return MixDraw(rows, partner, own, 1 - own, own, "blend")


def draw_image_mix(config: ImageMixupConfig, n_clips: int, generator: Generator) -> MixDraw:
    """Returns which of `n_clips` images are blended, and with which other one."""
    circle = torch.randperm(n_clips, generator=generator)
    probability = config.probability * (n_clips > 1)
    rows = chosen(probability, n_clips, generator, per_batch=config.per_batch)
    partner = circle[(circle.argsort()[rows] + 1) % max(1, n_clips)]
    n_draws = min(len(rows), 1) if config.per_batch else len(rows)
    own = beta_shares(config.beta, n_draws, generator).expand(len(rows))
    label_share = own if config.labels == "blend" else torch.full((len(rows),), 0.5)
    return MixDraw(rows, partner, own, 1 - own, label_share, config.labels)


def mix_signals(signal: Tensor, draw: MixDraw) -> Tensor:
    """Returns `signal` [R, ...] with the partners mixed in.

    Source:
        docs/formulas.md E17 for blended shares.
    """
    if not len(draw.rows):
        return signal
    shape = (-1, *[1] * (signal.ndim - 1))
    own, other = (
        share.view(shape).to(signal.dtype) for share in (draw.own_share, draw.partner_share)
    )
    mixed = (signal[draw.rows] * own).addcmul_(signal[draw.partner], other)
    return signal.index_copy(0, draw.rows, mixed)


def mix_waves(wave: Tensor, draw: WaveMixDraw) -> Tensor:
    """Returns `wave` [R, T] with the partners mixed in.

    Where levels are matched, a partner is first brought to the clip's own level, or else a loud
    clip would drown a soft one whose label it gets. Where either is silent, levels stay.

    Source:
        docs/formulas.md E16 (mean), E17 (blend), E18 (add, or blend), E19 (add, with a third).
    """
    if not len(draw.second.rows):
        return wave
    level = _MATCHED[draw.match_level](wave).clamp(min=SILENCE)
    result = wave.clone()
    for mix in (draw.second, draw.third):
        own, other = level[mix.rows], level[mix.partner]
        audible = (own > SILENCE) & (other > SILENCE)
        factor = mix.partner_share * torch.where(audible, own / other, 1.0)
        _mix_in(result, wave, mix, factor.to(wave.dtype))
    if draw.normalise_peak:
        mixed = result[draw.second.rows]
        highest = peak(mixed)
        result[draw.second.rows] = mixed / torch.where(highest > SILENCE, highest, 1.0)[:, None]
    return result


def _mix_in(result: Tensor, wave: Tensor, mix: MixDraw, factor: Tensor) -> None:
    """Changes `result` [R, T] by the partners in `wave` [R, T], times `factor` [K]."""
    own_share = mix.own_share.to(wave.dtype)

    def mix_some(mixed: Tensor, which: slice) -> None:
        partner = rows_of(wave, mix.partner[which])
        mixed.mul_(own_share[which, None]).addcmul_(partner, factor[which, None])

    change_rows(result, mix.rows, mix_some)


def mix_labels(labels: Labels, mixes: Sequence[MixDraw]) -> Labels:
    """Returns the labels of clips into which partners are mixed, one draw after another.

    The loss mask lets a class count where all knew it, and where one of them surely holds it. The
    loss weight is the mean of theirs, or blends as the labels do.

    Source:
        docs/formulas.md E16 to E19; the mask is that of the 2024 third place (jfpuget).
    """
    target, mask, weight = labels
    for mix in mixes:
        if not len(mix.rows):
            continue
        rows, partner, share = mix.rows, mix.partner, mix.label_share
        joined = _joined(target[rows], labels.target[partner], mix)
        known = torch.minimum(mask[rows], labels.mask[partner]).maximum(joined)
        shared = share * weight[rows] + (1 - share) * labels.weight[partner]
        target = target.index_copy(0, rows, joined)
        mask = mask.index_copy(0, rows, known)
        weight = weight.index_copy(0, rows, shared)
    return Labels(target, mask, weight)


def _joined(own: Tensor, other: Tensor, mix: MixDraw) -> Tensor:
    """Labels [K, C] of two clips by the draw's rule."""
    if mix.labels == "max":
        return torch.maximum(own, other)
    if mix.labels == "union":
        return (own + other).clamp(max=1.0)
    share = mix.label_share[:, None]
    return share * own + (1 - share) * other
