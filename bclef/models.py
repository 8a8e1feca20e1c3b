"""Networks: a timm backbone over log-mel images and a head that scores clips and frames.

`BirdModel` is what trains, scores and is exported: `features` takes the image, `forward` the wave.
The clip logit that the loss sees is the one that is exported. How a model lies on disk is the
business of `modelfiles`.
"""

import logging
from typing import Any, Literal, NamedTuple, cast

import timm
import torch
from pydantic import Field
from timm.models import FeatureInfo
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from bclef.config import Section
from bclef.frontend import FrontEndConfig
from bclef.spectrogram import LogMel

_CLIPS_IN_CACHE = 8
_LOG = logging.getLogger(__name__)


class ModelError(Exception):
    """A network cannot be built as configured, or a model folder does not hold what it should."""


class ModelConfig(Section):
    """The network (section `model`)."""

    backbone: str = Field(min_length=1)
    """Name of a timm network that gives feature maps, such as `tf_efficientnet_b0`."""
    pretrained: bool
    """Whether the backbone starts from timm's published weights where they can be had."""
    head: Literal["cnn", "sed"]
    """`cnn`: one pooled vector per clip. `sed`: attention over time among frame scores."""
    frequency_pool: Literal["mean", "gem"]
    """How the frequency axis is pooled; `gem` is a generalised mean with a learnt exponent."""
    hidden_features: int | None = Field(ge=1)
    """Width of a hidden layer between pooling and scores; null for none."""
    dropout: float = Field(ge=0, lt=1)
    """Share of pooled features that are dropped in training."""
    drop_path: float = Field(ge=0, lt=1)
    """Share of residual branches that are dropped in training; not every backbone has any."""


class ModelSpec(Section):
    """All that fixes a network's shape and the meaning of its inputs and outputs."""

    labels: tuple[str, ...]
    """Classes, in the order of the outputs."""
    sample_rate_hz: int = Field(gt=0)
    """Sample rate of the waves."""
    window_samples: int = Field(gt=0)
    """Length of the waves that the network was trained on."""
    frontend: FrontEndConfig
    """How a wave becomes an image."""
    model: ModelConfig
    """The network."""


class Logits(NamedTuple):
    """Scores before the sigmoid."""

    clip: Tensor
    """[B, C]: what the loss sees and what is exported."""
    frames: Tensor
    """[B, F', C]: the same classes over time, at the backbone's frame rate."""


class BirdModel(nn.Module):
    """Waveform to class scores.

    Args:
        spec: Shape and meaning; see `ModelSpec`.

    Raises:
        ModelError: timm has no such backbone, or not with these options or feature maps.
        ConfigError: The front end does not fit the sample rate.
    """

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.spectrogram = LogMel(spec.frontend, spec.sample_rate_hz)
        self.backbone = _create_backbone(spec.model, pretrained=False)
        # Depthwise networks train two to four times faster on a CPU in this layout.
        convert_conv2d_weight_memory_format(self.backbone, torch.channels_last)
        n_features: int = cast("FeatureInfo", self.backbone.feature_info).channels()[-1]
        head = SedHead if spec.model.head == "sed" else CnnHead
        self.head = head(n_features, len(spec.labels), spec.model)

    def images(self, wave: Tensor) -> Tensor:
        """Returns log-mel images of `wave` [B, T] without gradients, float32 [B, 1, M, F]."""
        # A few clips at a time, their spectra stay in a CPU's cache: half the time of all at once.
        parts = wave.split(_CLIPS_IN_CACHE) if wave.device.type == "cpu" else [wave]
        with torch.no_grad():
            return torch.cat([self.spectrogram(part) for part in parts])

    def features(self, mel: Tensor) -> Logits:
        """Returns the scores of log-mel images, float32 [B, 1, M, F]."""
        maps = self.backbone(mel.contiguous(memory_format=torch.channels_last))[-1]
        return self.head(maps)

    def forward(self, wave: Tensor) -> Logits:
        """Returns the scores of `wave`, float32 [B, T], full scale at 1."""
        return self.features(self.spectrogram(wave))


class FrequencyPool(nn.Module):
    """Mean or generalised mean over the mel axis: [B, D, M', F'] to [B, F', D].

    Source:
        recipes.md E3; the exponent starts at 3.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(3.0)) if kind == "gem" else None

    def forward(self, maps: Tensor) -> Tensor:
        """Returns one vector per frame."""
        if self.exponent is None:
            return maps.mean(dim=2).transpose(1, 2)
        powers = maps.float().clamp(min=1e-6).pow(self.exponent)
        return powers.mean(dim=2).pow(1 / self.exponent).transpose(1, 2)


class CnnHead(nn.Module):
    """Scores of the mean over all frames; frame scores come from the same layers.

    Args:
        n_features: Depth D of the backbone's last map.
        n_classes: Number of classes C.
        config: Pooling, hidden layer and dropout.
    """

    class_layers = ("classify",)
    """Layers with one row per class."""

    def __init__(self, n_features: int, n_classes: int, config: ModelConfig) -> None:
        super().__init__()
        self.pool = FrequencyPool(config.frequency_pool)
        self.embed, n_embedded = _embedding(n_features, config)
        self.classify = _class_layer(n_embedded, n_classes)

    def forward(self, maps: Tensor) -> Logits:
        """Returns the scores of feature maps [B, D, M', F']."""
        frames = self.pool(maps)
        clip = self.classify(self.embed(frames.mean(dim=1)))
        return Logits(clip=clip, frames=self.classify(self.embed(frames)))


class SedHead(nn.Module):
    """Scores of each frame, and per class their mean weighted by attention over time.

    Args:
        n_features: Depth D of the backbone's last map.
        n_classes: Number of classes C.
        config: Pooling, hidden layer and dropout.

    Source:
        recipes.md E4, logit-pooled: softmax over time of tanh(a), so that no frame outweighs
        another by more than e^2. Choiuijin1125 (2022) averages time before it and so attends to
        mel bands; here frequency is pooled and attention runs over time.
    """

    class_layers = ("classify", "attention")
    """Layers with one row per class."""

    def __init__(self, n_features: int, n_classes: int, config: ModelConfig) -> None:
        super().__init__()
        self.pool = FrequencyPool(config.frequency_pool)
        self.embed, n_embedded = _embedding(n_features, config)
        self.classify = _class_layer(n_embedded, n_classes)
        self.attention = nn.Linear(n_embedded, n_classes)

    def forward(self, maps: Tensor) -> Logits:
        """Returns the scores of feature maps [B, D, M', F']."""
        embedded = self.embed(self.pool(maps))
        frames = self.classify(embedded)
        share = torch.softmax(torch.tanh(self.attention(embedded)), dim=1)
        return Logits(clip=(share * frames).sum(dim=1), frames=frames)


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
    """Returns whether timm's published weights could be put into the backbone of `model`.

    Where they cannot be had (no network, none published) the backbone keeps its random start,
    which a warning says.
    """
    name = model.spec.model.backbone
    try:
        published = _create_backbone(model.spec.model, pretrained=True)
    except (OSError, RuntimeError) as error:
        _LOG.warning("%s starts from RANDOM weights: timm's could not be had (%s)", name, error)
        return False
    model.backbone.load_state_dict(published.state_dict())
    return True


def _create_backbone(config: ModelConfig, *, pretrained: bool) -> nn.Module:
    if not timm.is_model(config.backbone):
        similar = timm.list_models(f"*{config.backbone.split('_')[0]}*")[:8]
        raise ModelError(
            f"model.backbone: timm has no network {config.backbone!r}; similar names: "
            f"{', '.join(similar) or 'none'}"
        )
    options: dict[str, Any] = {"drop_path_rate": config.drop_path} if config.drop_path else {}
    try:
        backbone: nn.Module = timm.create_model(
            config.backbone,
            pretrained=pretrained,
            features_only=True,
            in_chans=1,
            out_indices=(-1,),
            **options,
        )
    except TypeError as error:
        raise ModelError(
            f"model.backbone: {config.backbone} does not take {options}: {error}; "
            "set model.drop_path to 0 or choose another backbone"
        ) from error
    if str(getattr(backbone, "output_fmt", "NCHW")).endswith("NHWC"):
        raise ModelError(
            f"model.backbone: {config.backbone} gives maps with the channels last; "
            "choose one whose maps are [batch, channels, height, width]"
        )
    return backbone


def _embedding(n_features: int, config: ModelConfig) -> tuple[nn.Module, int]:
    """The layers between pooling and scores, and how many features leave them."""
    if config.hidden_features is None:
        return nn.Dropout(config.dropout), n_features
    hidden = nn.Linear(n_features, config.hidden_features)
    layers = (nn.Dropout(config.dropout), hidden, nn.ReLU(), nn.Dropout(config.dropout))
    return nn.Sequential(*layers), config.hidden_features


def _class_layer(n_features: int, n_classes: int) -> nn.Linear:
    layer = nn.Linear(n_features, n_classes)
    # A start at the chance of one class in C saves the epochs that would unlearn one half for all.
    nn.init.constant_(layer.bias, -torch.tensor(max(1.0, n_classes - 1.0)).log().item())
    return layer
