"""Torch, the exported graph and evaluation hear the same windows, whatever a recording's length.

The network of both is known: it hears three thirds of a second and says how loud each is.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from bclef.audio import window_starts
from bclef.inference import ScoreConfig, score_listed, score_recordings
from bclef.runtime import Predictor
from bclef.soundscapes import (
    EvaluateConfig,
    PostprocessConfig,
    SoundscapeInputs,
    score_soundscapes,
)
from bclef.taxonomy import ClassList

RATE_HZ, HEARD, SCORED = 30_000, 30_000, 10_000
LABELS = ("first", "middle", "last")
LENGTHS = (1, 9_999, 10_000, 10_001, 20_000, 29_999, 30_000, 30_001, 60_000, 61_000)
STEPS = pytest.mark.parametrize("step_s", [SCORED / RATE_HZ, 0.2])


class Thirds(torch.nn.Module):
    """The graph of `make_export` in torch, with the same context."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))
        self.images = torch.nn.Identity()
        self.spec = SimpleNamespace(
            labels=LABELS,
            sample_rate_hz=RATE_HZ,
            window_samples=HEARD,
            scored_samples=SCORED,
            context_samples=(HEARD - SCORED) // 2,
        )

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        return images.abs().unflatten(1, (3, -1)).mean(2).clamp(max=1)


class Recordings:
    """A feature store in memory: one annotated soundscape of each of `LENGTHS`."""

    def __init__(self) -> None:
        rng = np.random.default_rng(3)
        self.waves = {
            f"r{n:05d}": rng.integers(-30_000, 30_000, n).astype(np.int16) for n in LENGTHS
        }
        self.index = pd.DataFrame(
            {"recording_id": list(self.waves), "n_samples": list(LENGTHS), "role": "soundscape"}
        ).assign(annotated=True)

    def read(
        self, recording_id: str, first_sample: int = 0, n_samples: int | None = None
    ) -> NDArray[np.int16]:
        wave = self.waves[recording_id]
        stop = len(wave) if n_samples is None else first_sample + n_samples
        assert 0 <= first_sample <= stop <= len(wave), "read outside a recording"
        return wave[first_sample:stop]


@pytest.fixture
def export(make_export: Callable[..., Path], tmp_path: Path) -> Path:
    return make_export(tmp_path / "export", LABELS, SCORED)


def scores_in_torch(store: Recordings, step_s: float) -> pd.DataFrame:
    config = ScoreConfig(step_s=step_s, batch_size=7)
    return score_recordings(Thirds(), store, list(store.waves), config)


@STEPS
def test_scored_parts_cover_recordings_as_windows_without_context_do(step_s: float) -> None:
    scores = scores_in_torch(Recordings(), step_s)
    for length, (name, rows) in zip(LENGTHS, scores.groupby("recording_id"), strict=True):
        starts = window_starts(length, SCORED, round(step_s * RATE_HZ))
        np.testing.assert_allclose(rows["start_s"], starts / RATE_HZ, rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(rows["end_s"] - rows["start_s"], SCORED / RATE_HZ)


@STEPS
def test_context_is_what_lies_around_a_window_and_silence_outside_the_recording(
    step_s: float,
) -> None:
    store = Recordings()
    for name, rows in scores_in_torch(store, step_s).groupby("recording_id"):
        around = np.pad(np.abs(store.waves[str(name)] / 32768), (SCORED, 3 * SCORED))
        for row in rows.to_dict("records"):
            first = round(row["start_s"] * RATE_HZ)
            thirds = around[first : first + HEARD].reshape(3, SCORED).mean(1)
            np.testing.assert_allclose([row[label] for label in LABELS], thirds, rtol=1e-4)


@STEPS
def test_exported_graph_scores_the_windows_that_torch_scores(export: Path, step_s: float) -> None:
    store, predictor = Recordings(), Predictor(export, n_threads=1, batch_size=4)
    for name, rows in scores_in_torch(store, step_s).groupby("recording_id"):
        found = predictor.predict_samples(store.waves[str(name)] / np.float32(32768), step_s)
        expected = rows.drop(columns="recording_id").reset_index(drop=True)
        pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-6)


@STEPS
def test_evaluation_joins_both_at_every_window(export: Path, step_s: float) -> None:
    store = Recordings()
    boxes = pd.DataFrame(
        [("r60000", 1.0, 1.3, "middle")], columns=["recording_id", "start_s", "end_s", "label"]
    )
    in_torch = scores_in_torch(store, step_s)
    inputs = SoundscapeInputs(export, boxes, {0: in_torch}, ClassList(LABELS))
    config = EvaluateConfig(step_s=step_s, min_overlap_s=0.1, threshold=0.5, n_replicates=100)
    found = score_soundscapes(store, inputs, config, PostprocessConfig(kernel=None))
    assert found is not None
    pd.testing.assert_frame_equal(found.windows, in_torch[list(found.windows)])
    np.testing.assert_allclose(found.systems["soundscape"], found.systems["teacher"], atol=1e-6)
    # The box is true of the scored parts that it overlaps, not of all that was heard around them.
    true = found.windows[found.truth[:, 1]]
    assert set(true["recording_id"]) == {"r60000"}
    assert ((true["start_s"] < 1.3) & (true["end_s"] > 1.0)).all()


def test_window_that_a_table_names_is_scored_with_its_context() -> None:
    store = Recordings()
    windows = pd.DataFrame({"recording_id": ["r60000", "r10001"], "start_s": [0.5, 0.0]})
    scores = score_listed(Thirds(), store, windows, 2)
    levels = np.abs(store.waves["r60000"] / 32768)[5_000:35_000].reshape(3, SCORED).mean(1)
    np.testing.assert_allclose(scores[0], levels, rtol=1e-4)
    assert scores[1, 0] == 0
    assert scores[1, 1] > 0.3
    assert 0 < scores[1, 2] < 1e-4
