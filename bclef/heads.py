"""Heads: what stands between the backbone's feature maps and the scores of clips and frames.

A head keeps time: its frames are the columns of the maps, and attention runs over them. The clip
score may leave out frames at both ends, which the backbone has still seen.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from bclef.config import Section

_LEAST_FEATURE = 1e-6
"""Features are raised to this before a power is taken of them."""
_LEAST_PROBABILITY = 1e-6
"""A pooled probability is clipped to this distance from 0 and 1 before its logit is taken."""


class HeadConfig(Section):
    """How feature maps become scores."""

    head: Literal["cnn", "sed"]
    """`cnn`: one pooled vector per clip. `sed`: attention over time among frame scores."""
    frequency_pool: Literal["mean", "gem"]
    """How the frequency axis is pooled; `gem` is a generalised mean with a learnt exponent. The
    clip score of a `cnn` pools frequency and time at once."""
    frame_smoothing: bool
    """Each frame becomes the maximum plus the mean of itself and its neighbours; `sed` only."""
    hidden_features: int | None = Field(ge=1)
    """Width of a hidden layer between pooling and scores; null for none."""
    dropout: float = Field(ge=0, lt=1)
    """Share of pooled features that are dropped in training."""
    hidden_dropout: float = Field(ge=0, lt=1)
    """Share of the hidden layer's features that are dropped in training."""
    n_dropouts: int = Field(ge=1)
    """In training, scores are the mean over so many draws of what is dropped."""
    clip_pooling: Literal["logit", "probability"]
    """What attention averages over frames; `sed` only."""
    max_share: float = Field(ge=0, le=1)
    """Share of the frames' maximum in the probability of a clip; the rest is the pooled one's."""
    frame_shift: int = Field(ge=0)
    """Frames of the maps by which the span of that maximum is moved back and forth, each with a
    weight of a quarter; 0 for none."""

    @model_validator(mode="after")
    def _has_effect(self) -> Self:
        if self.head == "cnn" and (self.frame_smoothing or self.clip_pooling == "probability"):
            raise ValueError(
                "frame_smoothing and clip_pooling probability are of head sed: a cnn pools "
                "features over time, so set them to false and logit"
            )
        if self.frame_shift and not self.max_share:
            raise ValueError(
                f"frame_shift {self.frame_shift} moves the maximum over frames, of which "
                "max_share 0 takes nothing: raise max_share or set frame_shift to 0"
            )
        return self


class Logits(NamedTuple):
    """Scores before the sigmoid, float32 under any autocast."""

    clip: Tensor
    """[B, C]."""
    frames: Tensor
    """[B, F', C]: the same classes over time, at the backbone's frame rate."""


class FrequencyPool(nn.Module):
    """Mean or generalised mean over the mel axis, alone or with time.

    Source:
        docs/formulas.md E3; the exponent starts at 3.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.exponent = nn.Parameter(torch.tensor(3.0)) if kind == "gem" else None

    def forward(self, maps: Tensor) -> Tensor:
        """Returns one vector per frame, [B, F', D], of `maps` [B, D, M', F']."""
        return self._mean(maps, (2,)).transpose(1, 2)

    def over_time(self, maps: Tensor) -> Tensor:
        """Returns one vector per clip, [B, D], of `maps` [B, D, M', F']."""
        return self._mean(maps, (2, 3))

    def _mean(self, maps: Tensor, axes: tuple[int, ...]) -> Tensor:
        if self.exponent is None:
            return maps.mean(axes)
        powers = maps.float().clamp(min=_LEAST_FEATURE).pow(self.exponent)
        return powers.mean(axes).pow(1 / self.exponent)


class Head(nn.Module, ABC):
    """Pools feature maps once, then scores them with as many draws of dropout as are asked for.

    Args:
        n_features: Depth D of the backbone's last map.
        n_classes: Number of classes C.
        config: Pooling, hidden layer and dropout.
    """

    class_layers: ClassVar[tuple[str, ...]] = ("classify",)
    """Layers with one row per class."""

    def __init__(self, n_features: int, n_classes: int, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.pool = FrequencyPool(config.frequency_pool)
        self.embed, self.n_embedded = _embedding(n_features, config)
        self.classify = nn.Linear(self.n_embedded, n_classes)
        # A start at the chance of one class in C saves the epochs that would unlearn one half.
        chance = -torch.tensor(max(1.0, n_classes - 1.0)).log().item()
        nn.init.constant_(self.classify.bias, chance)

    def forward(self, maps: Tensor, n_context: int = 0) -> Logits:
        """Returns the scores of feature maps [B, D, M', F'].

        Args:
            maps: What the backbone says.
            n_context: Frames at each end that the clip score leaves out.
        """
        pooled = self._pooled(maps, n_context)
        n_draws = self.config.n_dropouts if self.training else 1
        clips, frames = zip(*(self._scored(pooled, n_context) for _ in range(n_draws)), strict=True)
        return Logits(_mean(clips), _mean(frames))

    @abstractmethod
    def _pooled(self, maps: Tensor, n_context: int) -> Tensor:
        """Vectors to score, [B, any, D]."""

    @abstractmethod
    def _scored(self, pooled: Tensor, n_context: int) -> tuple[Tensor, Tensor]:
        """Clip and frame logits of the pooled vectors, with one draw of what is dropped."""


class CnnHead(Head):
    """Scores of a vector pooled over frequency and time; those of frames by the same layers."""

    def _pooled(self, maps: Tensor, n_context: int) -> Tensor:
        clip = self.pool.over_time(maps[..., _middle(maps.shape[3], n_context)])
        return torch.cat([clip.unsqueeze(1), self.pool(maps)], dim=1)

    def _scored(self, pooled: Tensor, n_context: int) -> tuple[Tensor, Tensor]:
        scores = self.classify(self.embed(pooled)).float()
        return scores[:, 0], scores[:, 1:]


class SedHead(Head):
    """Scores of each frame, and per class their mean weighted by attention over time.

    Source:
        docs/formulas.md E4: softmax over time of tanh(a), so that no frame outweighs another by
        more than e^2. Choiuijin1125 (2022) averages time before it and so attends to mel bands;
        here frequency is pooled and attention runs over time.
    """

    class_layers: ClassVar[tuple[str, ...]] = ("classify", "attention")

    def __init__(self, n_features: int, n_classes: int, config: HeadConfig) -> None:
        super().__init__(n_features, n_classes, config)
        self.attention = nn.Linear(self.n_embedded, n_classes)

    def _pooled(self, maps: Tensor, n_context: int) -> Tensor:
        frames = self.pool(maps)
        if not self.config.frame_smoothing:
            return frames
        rows = frames.transpose(1, 2)
        smooth = functional.max_pool1d(rows, 3, 1, 1) + functional.avg_pool1d(rows, 3, 1, 1)
        return smooth.transpose(1, 2)

    def _scored(self, pooled: Tensor, n_context: int) -> tuple[Tensor, Tensor]:
        embedded, middle = self.embed(pooled), _middle(pooled.shape[1], n_context)
        frames = self.classify(embedded).float()
        share = torch.softmax(torch.tanh(self.attention(embedded[:, middle]).float()), dim=1)
        if self.config.clip_pooling == "logit":
            return (share * frames[:, middle]).sum(dim=1), frames
        probability = (share * frames[:, middle].sigmoid()).sum(dim=1)
        return torch.logit(probability, eps=_LEAST_PROBABILITY), frames


def make_head(n_features: int, n_classes: int, config: HeadConfig) -> Head:
    """Returns the head that `config` names, over maps of depth `n_features`."""
    kind = SedHead if config.head == "sed" else CnnHead
    return kind(n_features, n_classes, config)


def clip_probabilities(logits: Logits, config: HeadConfig, n_context: int) -> Tensor:
    """Returns the probabilities that count, [B, C]: pooled ones blended with the frames' maximum.

    The maximum is over the frames that are no context. With a shift of d frames it is half that,
    and a quarter each over the span moved d frames earlier and later, as far as the clip reaches.

    Args:
        logits: Scores of clips, whose clip score leaves out `n_context` frames too.
        config: Share of the maximum, and the shift.
        n_context: Frames at each end that are context; `frames` has more than twice as many, and
            more than the shift.

    Source:
        docs/formulas.md E33; the 2023 first place blends by 3 to 1, the second takes the maximum
        alone.
    """
    pooled = logits.clip.sigmoid()
    if not config.max_share:
        return pooled
    frames, n_shift = logits.frames.sigmoid(), config.frame_shift
    greatest = frames[:, _middle(frames.shape[1], n_context)].amax(dim=1)
    if n_shift:
        earlier = frames[:, max(0, n_context - n_shift) : frames.shape[1] - n_context - n_shift]
        later = frames[:, n_context + n_shift : frames.shape[1] - n_context + n_shift]
        greatest = 0.5 * greatest + 0.25 * (earlier.amax(dim=1) + later.amax(dim=1))
    return (1 - config.max_share) * pooled + config.max_share * greatest


def _embedding(n_features: int, config: HeadConfig) -> tuple[nn.Module, int]:
    """The layers between pooling and scores, and how many features leave them."""
    if config.hidden_features is None:
        return nn.Dropout(config.dropout), n_features
    hidden = nn.Linear(n_features, config.hidden_features)
    layers = (nn.Dropout(config.dropout), hidden, nn.ReLU(), nn.Dropout(config.hidden_dropout))
    return nn.Sequential(*layers), config.hidden_features


def _middle(n_frames: int, n_context: int) -> slice:
    return slice(n_context, n_frames - n_context)


def _mean(draws: tuple[Tensor, ...]) -> Tensor:
    return draws[0] if len(draws) == 1 else torch.stack(draws).mean(dim=0)
