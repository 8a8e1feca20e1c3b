"""Sounds of known content, and the real recordings where they are at hand."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pandas as pd
import pytest

from bclef.exportfolder import (
    CARD_FILE,
    CARD_VERSION,
    INPUT_NAME,
    LABELS_FILE,
    ONNX_FILE,
    OUTPUT_NAME,
    describe_file,
)
from bclef.tables import write_json

Wave = npt.NDArray[np.float32]


@pytest.fixture
def rng() -> np.random.Generator:
    """The same random numbers for every test."""
    return np.random.default_rng(20261121)


@pytest.fixture
def make_tone() -> Callable[..., Wave]:
    """A function that makes a sine of given frequency, length and peak."""

    def tone(
        frequency_hz: float, length_s: float, sample_rate_hz: int = 32_000, peak: float = 0.5
    ) -> Wave:
        time_s = np.arange(round(length_s * sample_rate_hz)) / sample_rate_hz
        return (peak * np.sin(2 * np.pi * frequency_hz * time_s)).astype(np.float32)

    return tone


@pytest.fixture
def make_chirp() -> Callable[..., Wave]:
    """A function that makes a bird: one swept syllable, soft at its edges, within silence."""

    def chirp(
        band_hz: tuple[float, float],
        begin_s: float,
        syllable_s: float,
        length_s: float,
        sample_rate_hz: int = 32_000,
    ) -> Wave:
        time_s = np.arange(round(syllable_s * sample_rate_hz)) / sample_rate_hz
        low_hz, high_hz = band_hz
        phase = 2 * np.pi * (low_hz + (high_hz - low_hz) * time_s / (2 * syllable_s)) * time_s
        syllable = 0.5 * np.hanning(len(time_s)) * np.sin(phase)
        wave = np.zeros(round(length_s * sample_rate_hz), dtype=np.float32)
        first_sample = round(begin_s * sample_rate_hz)
        wave[first_sample : first_sample + len(syllable)] = syllable
        return wave

    return chirp


@pytest.fixture(scope="session")
def real_audio() -> Path:
    """The folder of real recordings; tests that want it are skipped where it is not."""
    repository = Path(__file__).parents[1]
    folder = (repository / os.environ.get("BCLEF_REAL_AUDIO", "../shared/audio")).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}; BCLEF_REAL_AUDIO names their folder")
    return folder


@pytest.fixture
def make_export() -> Callable[..., Path]:
    """A function that writes an export folder whose scores are known without a network.

    It hears one second at 30 kHz. The score of class 0, 1, 2 is the mean absolute sample of the
    first, second, last third of that, at most 1.
    """

    def export(
        directory: Path,
        labels: tuple[str, ...] = ("first", "middle", "last"),
        scored_samples: int = 30_000,
    ) -> Path:
        directory.mkdir(parents=True)
        onnx.save(_thirds_graph(len(labels)), directory / ONNX_FILE)
        names = [f"Avis {label}" for label in labels]
        classes = pd.DataFrame({"label": labels, "scientific_name": names})
        classes.to_csv(directory / LABELS_FILE, index_label="index")
        card = {
            "version": CARD_VERSION,
            "labels": labels,
            "sample_rate_hz": 30_000,
            "window_samples": 30_000,
            "scored_samples": scored_samples,
            "files": {name: describe_file(directory / name) for name in (ONNX_FILE, LABELS_FILE)},
        }
        write_json(directory / CARD_FILE, card)
        return directory

    return export


def _thirds_graph(n_parts: int) -> onnx.ModelProto:
    shape = onnx.numpy_helper.from_array(np.array([-1, n_parts, 30_000 // n_parts]), "shape")
    axis = onnx.numpy_helper.from_array(np.array([2]), "axis")
    one = onnx.numpy_helper.from_array(np.float32(1), "one")
    nodes = [
        onnx.helper.make_node("Reshape", [INPUT_NAME, "shape"], ["parts"]),
        onnx.helper.make_node("Abs", ["parts"], ["absolute"]),
        onnx.helper.make_node("ReduceMean", ["absolute", "axis"], ["mean"], keepdims=0),
        onnx.helper.make_node("Min", ["mean", "one"], [OUTPUT_NAME]),
    ]
    kind = onnx.TensorProto.FLOAT
    ends = [
        onnx.helper.make_tensor_value_info(name, kind, ["batch", width])
        for name, width in ((INPUT_NAME, 30_000), (OUTPUT_NAME, n_parts))
    ]
    graph = onnx.helper.make_graph(nodes, "thirds", ends[:1], ends[1:], [shape, axis, one])
    opset = onnx.helper.make_opsetid("", 18)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=9)
