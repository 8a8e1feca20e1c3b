"""Networks: a timm backbone over log-mel images and a head that scores clips and frames.

`BirdModel` is what trains, scores and is exported. `features` gives the logits that a loss sees,
`scores` the probabilities that count outside training, both of images; `forward` takes the wave.
How a model lies on disk is the business of `modelfiles`.
"""

from collections.abc import Callable
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from bclef.backbones import Backbone, BackboneSpec, ModelError, load_published
from bclef.config import Section
from bclef.frontend import FrontEndConfig
from bclef.heads import HeadConfig, Logits, clip_probabilities, make_head
from bclef.spectrogram import LogMel

__all__ = [
    "BirdModel", "Logits", "ModelConfig", "ModelError", "ModelSpec", "build_model",
    "load_timm_weights", "part_images",
]  # fmt: skip

_CLIPS_IN_CACHE = 8


class ModelConfig(HeadConfig):
    """The network (section `model`)."""

    backbone: str = Field(min_length=1)
    """Name of a timm network that gives feature maps, such as `tf_efficientnet_b0`."""
    pretrained: bool
    """Whether the backbone starts from timm's published weights where they can be had."""
    input_s: float = Field(gt=0)
    """What the network sees when it scores, s; it may be trained on clips of another length."""
    scored_s: float = Field(gt=0)
    """The middle of that, which the scores are about, s; the rest is context on both sides."""
    part_s: float | None = Field(gt=0)
    """Clips are cut into parts of so many seconds, whose feature maps are joined in time before
    the head; null for none. It divides `input_s` and the clips that are trained on."""
    mel_batch_norm: bool
    """Whether a batch norm brings each mel band of each channel to one scale."""
    drop_path: float = Field(ge=0, lt=1)
    """Share of residual branches that are dropped in training; not every backbone has any."""

    @model_validator(mode="after")
    def _times_agree(self) -> Self:
        if self.scored_s > self.input_s:
            raise ValueError(f"scored_s {self.scored_s} exceeds input_s {self.input_s}")
        if self.part_s is not None:
            n_parts = self.input_s / self.part_s
            if round(n_parts) < 1 or abs(n_parts - round(n_parts)) > 1e-6:
                raise ValueError(f"part_s {self.part_s} does not divide input_s {self.input_s}")
        return self


class ModelSpec(Section):
    """All that fixes a network's shape and the meaning of its inputs and outputs."""

    labels: tuple[str, ...]
    """Classes, in the order of the outputs."""
    sample_rate_hz: int = Field(gt=0)
    """Sample rate of the waves."""
    frontend: FrontEndConfig
    """How a wave becomes an image."""
    model: ModelConfig
    """The network."""

    @property
    def window_samples(self) -> int:
        """Length of the waves that the network scores."""
        return round(self.model.input_s * self.sample_rate_hz)

    @property
    def scored_samples(self) -> int:
        """Length of the middle of such a wave, which the scores are about."""
        return round(self.model.scored_s * self.sample_rate_hz)

    @property
    def context_samples(self) -> int:
        """Length of what such a wave has before the scored part, and after it."""
        return (self.window_samples - self.scored_samples) // 2

    @property
    def part_samples(self) -> int:
        """Length of what the backbone sees at once in such a wave."""
        return round((self.model.part_s or self.model.input_s) * self.sample_rate_hz)

    @model_validator(mode="after")
    def _samples_agree(self) -> Self:
        if (self.window_samples - self.scored_samples) % 2:
            raise ValueError(
                f"model: input_s and scored_s are {self.window_samples} and {self.scored_samples} "
                "samples, expected as many before the scored part as after it"
            )
        if self.window_samples % self.part_samples:
            raise ValueError(
                f"model: input_s is {self.window_samples} samples, expected a multiple of the "
                f"{self.part_samples} of part_s"
            )
        return self


class BirdModel(nn.Module):
    """Waveform to class scores.

    Args:
        spec: Shape and meaning; see `ModelSpec`.

    Raises:
        ModelError: timm has no such backbone, or not with these options or feature maps.
        ConfigError: The front end does not fit the sample rate or the length of the waves.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.spectrogram = LogMel(spec.frontend, spec.sample_rate_hz)
        # Bands and frames of what the backbone sees at once.
        self.part_shape = spec.frontend.image_shape(spec.part_samples)
        n_rows = spec.frontend.n_channels * self.part_shape[0]
        self.mel_norm = BandNorm(n_rows) if spec.model.mel_batch_norm else nn.Identity()
        self.backbone = Backbone(
            BackboneSpec(
                spec.model.backbone,
                spec.frontend.n_channels,
                self.part_shape,
                spec.model.drop_path,
            )
        )
        self.head = make_head(self.backbone.n_features, len(spec.labels), spec.model)

    def images(self, wave: Tensor) -> Tensor:
        """Returns images of `wave` [B, T] without gradients, float32 [B, channels, M, F].

        With parts, each is an image of its own, and they stand side by side in time.

        Raises:
            ModelError: `wave` is no whole number of parts.
            ConfigError: It is too short for the front end.
        """

        def image(waves: Tensor) -> Tensor:
            # A few at a time, their spectra stay in a CPU's cache: half the time of all at once.
            some = waves.split(_CLIPS_IN_CACHE) if waves.device.type == "cpu" else [waves]
            return torch.cat([self.spectrogram(each) for each in some])

        with torch.no_grad():
            return part_images(image, wave, self._n_parts(wave.shape[1], self.spec.part_samples))

    def features(self, mel: Tensor, *, scored: bool = False) -> Logits:
        """Returns the logits of images [B, channels, M, F].

        Args:
            mel: As `images` gives them, of clips of any length that the backbone takes.
            scored: Whether the clip logit is about the scored part alone; the backbone and the
                frame logits always have the whole.

        Raises:
            ModelError: `mel` is no whole number of parts, or the backbone wants another size.
        """
        n_parts = self._n_parts(mel.shape[3], self.part_shape[1])
        maps = _side_by_side(self.backbone(_one_by_one(self.mel_norm(mel), n_parts)), n_parts)
        logits: Logits = self.head(maps, self._n_context(maps.shape[3]) if scored else 0)
        return logits

    def scores(self, mel: Tensor) -> Tensor:
        """Returns the probabilities that count outside training, float32 [B, C], of images.

        They are about the scored part, and blended with the maximum over its frames as configured.

        Raises:
            ModelError: As `features`, or the maps have too few frames for `frame_shift`.
        """
        config, logits = self.spec.model, self.features(mel, scored=True)
        n_frames = logits.frames.shape[1]
        n_context = self._n_context(n_frames)
        if n_context + config.frame_shift >= n_frames:
            raise ModelError(
                f"model.frame_shift: found {config.frame_shift} with {n_context} frames of context "
                f"on each side, expected less than the {n_frames} frames of the maps in all"
            )
        return clip_probabilities(logits, config, n_context)

    def forward(self, wave: Tensor) -> Tensor:
        """Returns the `scores` of `wave`, float32 [B, T], full scale at 1."""
        n_parts = self._n_parts(wave.shape[1], self.spec.part_samples)
        return self.scores(part_images(self.spectrogram, wave, n_parts))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Returns every parameter once: those of `backbone`, `head` and `class_layers`.

        The norm of the mel bands counts as backbone; the layers with one row per class do not
        count as head.
        """
        layers = [self.head.get_submodule(name) for name in self.head.class_layers]
        class_layers = [parameter for layer in layers for parameter in layer.parameters()]
        ids = {id(parameter) for parameter in class_layers}
        return {
            "backbone": [*self.mel_norm.parameters(), *self.backbone.parameters()],
            "head": [each for each in self.head.parameters() if id(each) not in ids],
            "class_layers": class_layers,
        }

    def _n_parts(self, n_steps: int, n_part_steps: int) -> int:
        """How many parts a wave or an image is made of; without parts it is one, of any length."""
        if self.spec.model.part_s is None:
            return 1
        if n_steps % n_part_steps:
            raise ModelError(
                f"found clips of {n_steps} samples or frames, expected a multiple of the "
                f"{n_part_steps} of model.part_s, {self.spec.model.part_s} s"
            )
        return n_steps // n_part_steps

    def _n_context(self, n_frames: int) -> int:
        """Frames at each end of maps that lie wholly outside the scored part."""
        return n_frames * self.spec.context_samples // self.spec.window_samples


class BandNorm(nn.Module):
    """Batch norm of each mel band of each channel over clips and time.

    Args:
        n_rows: Number of channels times that of mel bands.
    """

    def __init__(self, n_rows: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(n_rows)

    def forward(self, mel: Tensor) -> Tensor:
        """Returns images of the shape of `mel` [B, channels, M, F]."""
        normed: Tensor = self.norm(mel.flatten(1, 2))
        return normed.unflatten(1, (mel.shape[1], mel.shape[2]))


def part_images(spectrogram: Callable[[Tensor], Tensor], wave: Tensor, n_parts: int) -> Tensor:
    """Returns the images of the parts of `wave` side by side in time, [B, channels, M, F].

    Args:
        spectrogram: Makes images of waves, such as a `LogMel`.
        wave: Clips, [B, T].
        n_parts: How many equal parts each is cut into.
    """
    return _side_by_side(spectrogram(wave.unflatten(1, (n_parts, -1)).flatten(0, 1)), n_parts)


def build_model(spec: ModelSpec, seed: int) -> BirdModel:
    """Returns a network with random weights that depend on `seed` alone.

    Raises:
        ModelError: As `BirdModel`.
    """
    # The layers draw from torch's global generator, so it is borrowed and given back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BirdModel(spec)


def load_timm_weights(model: BirdModel) -> bool:
    """Returns whether timm's published weights could be put into the backbone of `model`."""
    return load_published(model.backbone)


def _one_by_one(images: Tensor, n_parts: int) -> Tensor:
    """[B, channels, M, P F] to [B P, channels, M, F]."""
    if n_parts == 1:
        return images
    return images.unflatten(3, (n_parts, -1)).movedim(3, 1).flatten(0, 1)


def _side_by_side(parts: Tensor, n_parts: int) -> Tensor:
    """[B P, channels, M, F] to [B, channels, M, P F]."""
    if n_parts == 1:
        return parts
    return parts.unflatten(0, (-1, n_parts)).movedim(1, 3).flatten(3)
