"""Backbones: timm's networks as images in, feature maps out, whatever their family."""

import logging
from dataclasses import dataclass
from typing import Any, cast

import timm
import torch
from timm.models import FeatureInfo
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

_LOG = logging.getLogger(__name__)


class ModelError(Exception):
    """A network cannot be built as configured, or a model folder does not hold what it should."""


@dataclass(frozen=True)
class BackboneSpec:
    """All that fixes a backbone's shape."""

    name: str
    """As timm knows it, with or without the tag of its weights."""
    n_channels: int
    """Channels of the images."""
    image_shape: tuple[int, int]
    """Height and width of the images; most networks take others besides."""
    drop_path: float
    """Share of residual branches that are dropped in training."""


class Backbone(nn.Module):
    """The last feature map of a timm network, [batch, depth, height, width].

    Args:
        spec: Network and images.

    Raises:
        ModelError: timm has no such network, or not with these options or feature maps.
    """

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.spec = spec
        self.network = _random_network(spec)
        # Depthwise networks train two to four times faster on a CPU in this layout.
        convert_conv2d_weight_memory_format(self.network, torch.channels_last)
        self.n_features: int = cast("FeatureInfo", self.network.feature_info).channels()[-1]
        self.has_fixed_size = _has_fixed_size(spec.name)
        self.gives_channels_last = str(getattr(self.network, "output_fmt", "")).endswith("NHWC")

    def forward(self, images: Tensor) -> Tensor:
        """Returns the map of `images` [batch, channels, height, width].

        Raises:
            ModelError: The network takes one size of images, and these have another.
        """
        found = (images.shape[2], images.shape[3])
        if self.has_fixed_size and found != self.spec.image_shape:
            raise ModelError(
                f"model.backbone: {self.spec.name} takes images of {self.spec.image_shape} bands "
                f"and frames, found {found}: train on clips as long as model.input_s, or part_s, "
                "or set frontend.image_size"
            )
        maps: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))[-1]
        return maps.permute(0, 3, 1, 2) if self.gives_channels_last else maps


def load_published(backbone: Backbone) -> bool:
    """Returns whether timm's published weights could be put into `backbone`.

    timm fits them to the number of channels. Where they cannot be had (no network, none published)
    the backbone keeps its random start, which a warning says.
    """
    name = backbone.spec.name
    try:
        published = _network(backbone.spec, pretrained=True)
    except (OSError, RuntimeError) as error:
        _LOG.warning("%s starts from RANDOM weights: timm's could not be had (%s)", name, error)
        return False
    backbone.network.load_state_dict(published.state_dict())
    return True


def architecture(name: str) -> str:
    """Returns the name of a timm network without the tag of its weights.

    >>> architecture("tf_efficientnet_b0.ns_jft_in1k")
    'tf_efficientnet_b0'
    """
    return name.partition(".")[0]


def _random_network(spec: BackboneSpec) -> nn.Module:
    if not timm.is_model(spec.name):
        similar = timm.list_models(f"*{spec.name.split('_')[0]}*")[:8]
        raise ModelError(
            f"model.backbone: timm has no network {spec.name!r}; similar names: "
            f"{', '.join(similar) or 'none'}"
        )
    try:
        return _network(spec, pretrained=False)
    # Networks without feature maps, or not of this size, fail in as many ways as there are of them.
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        said = str(error) or type(error).__name__
        if isinstance(error, TypeError) and "drop_path_rate" in said:
            raise ModelError(
                f"model.backbone: {spec.name} does not take drop_path {spec.drop_path}; set "
                "model.drop_path to 0 or choose another backbone"
            ) from error
        raise ModelError(
            f"model.backbone: timm cannot make feature maps of images of {spec.image_shape} bands "
            f"and frames with {spec.name} ({said}); choose another backbone, or another size by "
            "frontend.image_size"
        ) from error


def _network(spec: BackboneSpec, *, pretrained: bool) -> nn.Module:
    options: dict[str, Any] = {"drop_path_rate": spec.drop_path} if spec.drop_path else {}
    if _has_fixed_size(spec.name):
        options["img_size"] = spec.image_shape
    network: nn.Module = timm.create_model(
        spec.name,
        pretrained=pretrained,
        features_only=True,
        in_chans=spec.n_channels,
        out_indices=(-1,),
        **options,
    )
    return network


def _has_fixed_size(name: str) -> bool:
    """Whether a network is built for one size of images, such as most transformers."""
    published = timm.get_pretrained_cfg(name)
    return published is not None and bool(published.fixed_input_size)
