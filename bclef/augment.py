"""Augmentation of waves, labels and log-mel images; what is drawn stands apart from its effect.

Draws come from a passed generator, on the CPU and few numbers a clip; effects are batched tensor
operations on whatever device the clips are on. They change neither their arguments nor their shape,
touch only the rows that are drawn, and cost nothing where none is. Waves are augmented before the
front end, images after it.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self, TypeVar, cast

import torch
from pydantic import model_validator
from torch import Generator, Tensor

from bclef.config import Section
from bclef.imagechanges import (
    MaskDraw,
    MasksConfig,
    PowerConfig,
    PowerDraw,
    TiltConfig,
    TiltDraw,
    draw_masks,
    draw_power,
    draw_tilt,
    mask_images,
    raise_images,
    tilt_images,
)
from bclef.mixing import (
    ImageMixupConfig,
    Labels,
    MixDraw,
    MixupConfig,
    SelectiveMixupConfig,
    WaveMixDraw,
    draw_image_mix,
    draw_selective_mix,
    draw_wave_mix,
    mix_labels,
    mix_signals,
    mix_waves,
)
from bclef.noises import NoiseAdder, NoiseDraw, add_noises, draw_noises
from bclef.wavechanges import (
    FilteringConfig,
    GainConfig,
    GainDraw,
    LowPassConfig,
    PitchDraw,
    PitchShiftConfig,
    ShiftDraw,
    SpectrumDraw,
    TimeShiftConfig,
    change_level,
    change_spectrum,
    draw_gain,
    draw_pitch,
    draw_shift,
    draw_spectrum,
    shift_pitch,
    shift_time,
)

Part = TypeVar("Part")


class AugmentConfig(Section):
    """How training clips are varied (part of section `train`); effects are in this order."""

    mixup: MixupConfig
    """Waves mixed with others of the batch."""
    noise: tuple[NoiseAdder, ...]
    """Background noise, by one adder after another."""
    noise_at_most_one: bool
    """Whether a clip gets at most one noise: probabilities are then shares of one choice."""
    filtering: FilteringConfig
    """Random attenuation along frequency."""
    low_pass: LowPassConfig
    """Weaker high frequencies."""
    gain: GainConfig
    """Change of level."""
    pitch_shift: PitchShiftConfig
    """Change of pitch."""
    time_shift: TimeShiftConfig
    """Rolling in time."""
    selective_mixup: SelectiveMixupConfig
    """Images blended with those of scored clips."""
    image_mixup: ImageMixupConfig
    """Images blended with others of the batch."""
    tilt: TiltConfig
    """Weaker high bands."""
    power: PowerConfig
    """Contrast."""
    masks: MasksConfig
    """Hidden frames and bands."""

    @model_validator(mode="after")
    def _shares_of_one_choice(self) -> Self:
        total = sum(adder.probability for adder in self.noise)
        if self.noise_at_most_one and total > 1 + 1e-9:
            raise ValueError(
                f"noise_at_most_one: the probabilities of noise add up to {total:g}, more than 1"
            )
        return self


class Clips(NamedTuple):
    """R clips, or their images, and what the loss asks of them."""

    signal: Tensor
    """Waves [R, T], full scale at 1, or images [R, Ch, M, F]."""
    target: Tensor
    """float32 [R, C], from 0 to 1."""
    mask: Tensor
    """float32 [R, C], 1 where the target is known."""
    weight: Tensor
    """float32 [R], weight in the loss."""


class Draws(NamedTuple):
    """What happens to each of R rows: those of the batch, then those that are only mixed in."""

    n_rows: int
    """R."""
    mixup: WaveMixDraw
    noise: tuple[NoiseDraw, ...]
    """One per adder, in the order of the configuration."""
    spectrum: SpectrumDraw
    gain: GainDraw
    pitch: PitchDraw
    shift: ShiftDraw
    selective: MixDraw
    image_mixup: MixDraw
    tilt: TiltDraw
    power: PowerDraw
    masks: MaskDraw

    def needed(self, rows: Tensor) -> Tensor:
        """Returns the rows that the results at `rows` depend on, int64.

        They are `rows` themselves, then their partners, and those partners' own as far as they have
        been mixed by then; each once.

        Args:
            rows: Positions among the R rows, each once.
        """
        for mixes in [
            (self.image_mixup,),
            (self.selective,),
            (self.mixup.second, self.mixup.third),
        ]:
            partners = torch.cat(
                [mix.partner[torch.isin(mix.rows, rows)] for mix in mixes]
            ).unique()
            rows = torch.cat([rows, partners[~torch.isin(partners, rows)]])
        return rows

    def take(self, rows: Tensor) -> "Draws":
        """Returns the draws of `rows` alone, counted in their order.

        A row whose partner is not among them goes without: it is there as a partner itself. Where
        `rows` are the `needed` of some, those have the results that they have among all.
        """
        position = torch.full((self.n_rows,), -1)
        position[rows] = torch.arange(len(rows))
        return _taken(self, position)._replace(n_rows=len(rows))


def _taken(part: Part, position: Tensor) -> Part:
    """A part of the draws, without rows whose new `position` [R] is -1."""
    if not isinstance(part, tuple):
        return part
    fields = part._asdict() if hasattr(part, "_asdict") else {}
    if "rows" not in fields:
        parts = [_taken(each, position) for each in part]
        return cast(Part, type(part)(*parts) if fields else tuple(parts))
    for name in {"rows", "partner"} & fields.keys():
        fields[name] = position[fields[name]]
    kept = (fields["rows"] >= 0) & (fields.get("partner", fields["rows"]) >= 0)
    values = [each[kept] if isinstance(each, Tensor) else each for each in fields.values()]
    return cast(Part, type(part)(*values))


def draw(config: AugmentConfig, n_clips: int, n_partners: int, generator: Generator) -> Draws:
    """Returns what happens to the clips of a batch.

    Args:
        config: How clips are varied.
        n_clips: Clips of the batch: the first rows.
        n_partners: Scored clips that selective mixup blends in: the rows after them. They are
            mixed with nothing, but get noise and every other change of waves too.
        generator: Of the draws, on the CPU.
    """
    n_rows = n_clips + n_partners
    return Draws(
        n_rows=n_rows,
        mixup=draw_wave_mix(config.mixup, n_clips, generator),
        noise=draw_noises(config.noise, n_rows, generator, at_most_one=config.noise_at_most_one),
        spectrum=draw_spectrum(config.filtering, config.low_pass, n_rows, generator),
        gain=draw_gain(config.gain, n_rows, generator),
        pitch=draw_pitch(config.pitch_shift, n_rows, generator),
        shift=draw_shift(config.time_shift, n_rows, generator),
        selective=draw_selective_mix(config.selective_mixup, n_clips, n_partners, generator),
        image_mixup=draw_image_mix(config.image_mixup, n_clips, generator),
        tilt=draw_tilt(config.tilt, n_clips, generator),
        power=draw_power(config.power, n_clips, generator),
        masks=draw_masks(config.masks, n_clips, generator),
    )


def mixed_labels(target: Tensor, mask: Tensor, weight: Tensor, draws: Draws) -> Labels:
    """Returns targets [R, C], loss masks [R, C] and loss weights [R] after all mixups.

    They are those that `augment_waves` and then `augment_images` give, without the signals.
    """
    labels = mix_labels(Labels(target, mask, weight), (draws.mixup.second, draws.mixup.third))
    for mix in (draws.selective, draws.image_mixup):
        labels = mix_labels(labels, [mix])
    return labels


def augment_waves(clips: Clips, noise: Tensor, draws: Draws, sample_rate_hz: int) -> Clips:
    """Returns `clips` of waves [R, T] with all that is drawn for waves, and the labels after mixup.

    Args:
        clips: The clips, rows that are only mixed in included.
        noise: [K, T]: recorded noise, a row for each row of each draw of kind `recordings`.
        draws: What happens to them, on the same device.
        sample_rate_hz: Of the waves.
    """
    wave = mix_waves(clips.signal, draws.mixup)
    wave = add_noises(wave, noise, draws.noise, in_place=wave is not clips.signal)
    wave = change_spectrum(wave, draws.spectrum, sample_rate_hz)
    wave = change_level(wave, draws.gain)
    wave = shift_pitch(wave, draws.pitch)
    wave = shift_time(wave, draws.shift)
    return Clips(wave, *_mixed(clips, (draws.mixup.second, draws.mixup.third)))


def augment_images(clips: Clips, draws: Draws) -> Clips:
    """Returns `clips` of images [R, Ch, M, F] with all that is drawn for images."""
    for mix in (draws.selective, draws.image_mixup):
        clips = Clips(mix_signals(clips.signal, mix), *_mixed(clips, [mix]))
    image = tilt_images(clips.signal, draws.tilt)
    image = raise_images(image, draws.power)
    return clips._replace(signal=mask_images(image, draws.masks))


def _mixed(clips: Clips, mixes: Sequence[MixDraw]) -> Labels:
    return mix_labels(Labels(clips.target, clips.mask, clips.weight), mixes)
