"""The feature store as its readers see it: waveforms of all usable recordings, cut at will.

A shard is an HDF5 file with one flat, contiguous, uncompressed int16 dataset `audio`, in which each
recording begins at a whole step of 0.1 s, and `activity`, one level per step. So a crop is a slice
of a memory map: no decoding, no lock, and forked or threaded readers share the page cache.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np
import numpy.typing as npt

from bclef.tables import read_table

VERSION = 1
"""Layout of the shards; a reader refuses any other."""
STEP_S = 0.1
"""Length of the steps of the activity curve."""

FEATURE_INDEX_NEEDS = {
    "recording_id": "string",
    "shard": "string",
    "first_sample": "int64",
    "n_samples": "int64",
    "role": "string",
    "label": "string?",
    "secondary_labels": "list[string]",
    "annotated": "bool",
    "rating": "float32?",
    "source": "string",
}


class FeatureStoreError(Exception):
    """The feature store is not whole: a shard is missing, of another layout, or too short."""


def step_samples(sample_rate_hz: int) -> int:
    """Returns the samples in a step of the activity curve.

    >>> step_samples(32_000)
    3200
    """
    return round(STEP_S * sample_rate_hz)


class Store:
    """Reads a feature store; shards are opened when first asked for, in each process on its own.

    May be pickled, forked and shared by threads. Use it in a `with` block or just drop it.

    Attributes:
        index: One row per recording, columns FEATURE_INDEX_NEEDS.
    """

    def __init__(self, directory: Path) -> None:
        """Reads the index in `directory`.

        Raises:
            TableError: There is no index, or one of other columns.
        """
        self.index = read_table(directory / "index.parquet", FEATURE_INDEX_NEEDS)
        self._directory = directory
        columns = (self.index[name].tolist() for name in ("shard", "first_sample", "n_samples"))
        places = zip(*columns, strict=True)
        self._places = dict(zip(self.index["recording_id"].tolist(), places, strict=True))
        self._shards: dict[str, _Shard] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._shards.clear()

    def __getstate__(self) -> dict[str, object]:
        # A pickled memory map would carry the whole shard along.
        return self.__dict__ | {"_shards": {}}

    def read(
        self, recording_id: str, first_sample: int = 0, n_samples: int | None = None
    ) -> npt.NDArray[np.int16]:
        """Returns a copy of `n_samples` of a recording from `first_sample` on, all by default.

        Raises:
            KeyError: The store has no such recording.
            ValueError: The recording does not reach that far.
            FeatureStoreError: Its shard is not whole.
        """
        shard, start, length_samples = self._places[recording_id]
        end = length_samples if n_samples is None else first_sample + n_samples
        if not 0 <= first_sample <= end <= length_samples:
            raise ValueError(
                f"{recording_id}: asked for samples {first_sample} to {end} of {length_samples}"
            )
        return np.array(self._shard(shard).audio[start + first_sample : start + end])

    def activity(self, recording_id: str) -> npt.NDArray[np.float32]:
        """Returns the level of each 0.1 s of a recording, dBFS, float32 [ceil(T / step)].

        The level is that of the wave's first difference, which lets birds weigh more than wind.

        Raises:
            KeyError: The store has no such recording.
            FeatureStoreError: Its shard is not whole.
        """
        name, start, length_samples = self._places[recording_id]
        shard = self._shard(name)
        first_step = start // shard.step_samples
        n_steps = -(-length_samples // shard.step_samples)
        return np.array(shard.activity[first_step : first_step + n_steps])

    def _shard(self, name: str) -> "_Shard":
        if name not in self._shards:
            held = self.index[self.index["shard"] == name]
            n_samples = int((held["first_sample"] + held["n_samples"]).max())
            self._shards[name] = _Shard(self._directory / name, n_samples)
        return self._shards[name]


class _Shard:
    """The memory maps of one shard."""

    def __init__(self, path: Path, least_samples: int) -> None:
        cure = "run the features stage again (dvc repro -f -s features)"
        try:
            with h5py.File(path, "r") as file:
                version = int(file.attrs["version"])
                self.step_samples = step_samples(int(file.attrs["sample_rate_hz"]))
                self.audio = _mapped(path, file["audio"])
                self.activity = _mapped(path, file["activity"])
        except (OSError, KeyError) as error:
            raise FeatureStoreError(f"{path}: not a whole shard ({error}); {cure}") from error
        if version != VERSION:
            raise FeatureStoreError(f"{path}: layout {version}, expected {VERSION}; {cure}")
        if len(self.audio) < least_samples:
            raise FeatureStoreError(
                f"{path}: {len(self.audio)} samples, the index names {least_samples}; {cure}"
            )


def _mapped(path: Path, dataset: h5py.Dataset) -> npt.NDArray[np.generic]:
    position_bytes = dataset.id.get_offset()
    if position_bytes is None:
        raise KeyError(f"{dataset.name} is not contiguous")
    return np.memmap(path, dataset.dtype, "r", position_bytes, dataset.shape)
