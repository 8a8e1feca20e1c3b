"""Where training crops lie: in their recordings if those are long, in the window if they are short.

The numbers that decide are drawn elsewhere, `N_CHANCES` a crop, so that a clip's place depends on
nothing but its own numbers.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from bclef.config import Section
from bclef.crops import Crop, WaveStore
from bclef.store import step_samples

N_CHANCES = 3
"""Numbers that decide about one crop; as many places are compared where the liveliest is taken."""

_END_MARGIN_S = 1.0


class CropConfig(Section):
    """Length and place of clips (part of section `train`)."""

    window_s: float = Field(gt=0, le=60)
    """Length of a clip, s; the network may see less of it, or more."""
    crop_place: Literal["uniform", "active", "whole_second", "start", "ends"]
    """Of a longer recording. `uniform`: anywhere. `active`: the liveliest of three such places.
    `whole_second`: at any whole second. `start`: its beginning. `ends`: anywhere in the first or in
    the last `window_s` + 1 s, with equal chances."""
    short_clips: Literal["anywhere", "left", "right", "tile", "split"]
    """Where a shorter recording stands between zeros: `anywhere`, of which `split` is another name,
    `left` (zeros after it) or `right` (zeros before it); `tile`: it is repeated instead."""
    self_mixup_s: float | None = Field(gt=0)
    """A weakly labelled recording gives the sum of all windows in so many seconds of it, anywhere,
    so that the bird is heard more surely; null for a crop as of any other. Such a recording has a
    secondary label, or a primary one that is none of the classes; docs/formulas.md E20."""


class RandomCrops:
    """Chooses crops of recordings.

    Args:
        store: The recordings.
        config: Length and place.
        sample_rate_hz: Of the recordings.
    """

    def __init__(self, store: WaveStore, config: CropConfig, sample_rate_hz: int) -> None:
        self._store = store
        self._config = config
        self._rate_hz = sample_rate_hz
        self.window_samples = round(config.window_s * sample_rate_hz)
        self._summed_samples = round((config.self_mixup_s or 0) * sample_rate_hz)

    def of(
        self, recording_id: str, n_samples: int, chances: Sequence[float], *, is_weak: bool = False
    ) -> tuple[Crop, ...]:
        """Returns the crops whose sum is one clip: a single one, but for self-mixup.

        Args:
            recording_id: The recording.
            n_samples: Its length.
            chances: `N_CHANCES` numbers from 0 up to but not including 1.
            is_weak: Whether it is only weakly labelled.

        Source:
            docs/formulas.md E20: the segments of 60 s, summed.
        """
        window = self.window_samples
        n_summed = min(n_samples, self._summed_samples)
        if is_weak and n_summed > window:
            begin = int(chances[0] * (n_samples - n_summed + 1))
            end = begin + n_summed
            return tuple(
                Crop(recording_id, first, min(window, end - first), 0)
                for first in range(begin, end, window)
            )
        if n_samples > window:
            first_sample = self._first_sample(recording_id, n_samples - window, chances)
            return (Crop(recording_id, first_sample, window, 0),)
        is_tiled = self._config.short_clips == "tile"
        return (Crop(recording_id, 0, n_samples, self._place(n_samples, chances[0]), is_tiled),)

    def _first_sample(self, recording_id: str, spare: int, chances: Sequence[float]) -> int:
        """Where a crop begins in a recording that is `spare` samples longer than the window."""
        place = self._config.crop_place
        if place == "start":
            return 0
        if place == "whole_second":
            return int(chances[0] * (spare // self._rate_hz + 1)) * self._rate_hz
        if place == "ends":
            margin = min(spare, round(_END_MARGIN_S * self._rate_hz))
            inward = int(chances[0] * (margin + 1))
            return inward if chances[1] < 0.5 else spare - inward
        if place == "uniform":
            return int(chances[0] * (spare + 1))
        candidates = [int(chance * (spare + 1)) for chance in chances]
        curve = self._store.activity(recording_id)
        return max(candidates, key=lambda first_sample: self._level(curve, first_sample))

    def _place(self, n_samples: int, chance: float) -> int:
        """Where a short recording begins in the window."""
        spare = self.window_samples - n_samples
        fixed = {"left": 0, "tile": 0, "right": spare}
        return fixed.get(self._config.short_clips, int(chance * (spare + 1)))

    def _level(self, curve: NDArray[np.float32], first_sample: int) -> float:
        """Sum of the levels in the window, dB; equal numbers of values make it rank as the mean."""
        step = step_samples(self._rate_hz)
        n_steps = min(round(self.window_samples / step), len(curve))
        first = min(round(first_sample / step), len(curve) - n_steps)
        return float(curve[first : first + n_steps].sum(dtype=np.float64))
