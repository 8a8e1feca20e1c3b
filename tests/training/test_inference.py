from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bclef.inference import (
    RECORDINGS_PER_CHUNK,
    ScoreConfig,
    ScoreError,
    score_listed,
    score_recordings,
    score_soundscapes,
    score_windows,
)
from bclef.modelfiles import make_card, save_model
from bclef.models import BirdModel, ModelSpec, build_model
from bclef.parallel import executor
from bclef.tables import write_table
from bclef.windowscores import window_scores_schema

RATE_HZ = 8000
CONFIG = ScoreConfig(step_s=0.5, batch_size=7)


@pytest.fixture
def model_dir(lively_model: BirdModel, tmp_path: Path) -> Path:
    card = make_card(lively_model.spec, "random", {}, {})
    save_model(lively_model, tmp_path / "model", card)
    return tmp_path / "model"


def test_windows_cover_each_recording_and_the_last_is_padded(
    lively_model: BirdModel, world: Any
) -> None:
    ids = world.index["recording_id"].tolist()[:5]
    scores = score_recordings(lively_model, world, ids, CONFIG)
    assert list(dict.fromkeys(scores["recording_id"])) == ids
    for name, rows in scores.groupby("recording_id"):
        length_s = len(world.waves[name]) / RATE_HZ
        assert rows["start_s"].tolist() == [0.5 * n for n in range(len(rows))]
        assert (rows["end_s"] == rows["start_s"] + 1.0).all()
        assert rows["end_s"].max() >= length_s
        assert rows["end_s"].max() - 0.5 < max(length_s, 1.0)


def test_score_is_the_probability_of_the_padded_window(lively_model: BirdModel, world: Any) -> None:
    windows = pd.DataFrame({"recording_id": ["f00", "f01"], "start_s": [0.0, 0.5]})
    scores = score_listed(lively_model, world, windows, batch_size=2)
    for name, first, found in [("f00", 0, scores[0]), ("f01", 4000, scores[1])]:
        wave = world.waves[name][first : first + RATE_HZ].astype(np.float32) / 32768
        padded = torch.from_numpy(np.pad(wave, (0, RATE_HZ - len(wave))))[None]
        expected = lively_model(padded)[0].detach()
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(scores[0] - scores[1]).max() > 1e-3


def test_network_with_context_is_scored_by_the_middle_of_what_it_hears(
    spec: ModelSpec, world: Any
) -> None:
    wide = spec.model.model_copy(update={"input_s": 2.0, "scored_s": 1.0})
    model = build_model(spec.model_copy(update={"model": wide}), seed=3).eval()
    heard: list[torch.Tensor] = []
    images = model.images
    model.images = lambda wave: (heard.append(wave), images(wave))[1]
    ids = world.index["recording_id"].tolist()[:4]
    scores = score_recordings(model, world, ids, CONFIG)
    waves = torch.cat(heard).numpy()
    assert waves.shape == (len(scores), 2 * RATE_HZ)
    for row, found in zip(scores.to_dict("records"), waves, strict=True):
        around = np.pad(world.waves[row["recording_id"]] / np.float32(32768), (4000, 2 * RATE_HZ))
        first = round(row["start_s"] * RATE_HZ)
        np.testing.assert_allclose(found, around[first : first + 2 * RATE_HZ], atol=1e-6)
        assert row["end_s"] == row["start_s"] + 1.0
    with pytest.raises(ScoreError, match=r"score\.step_s: found 1\.5, .* scored part of 1\.0 s"):
        score_recordings(model, world, ids, ScoreConfig(step_s=1.5, batch_size=4))


def test_scores_do_not_depend_on_batches_and_order(lively_model: BirdModel, world: Any) -> None:
    ids = world.index["recording_id"].tolist()[:8]
    key = ["recording_id", "start_s"]
    one = score_recordings(lively_model, world, ids, ScoreConfig(step_s=1.0, batch_size=64))
    other = score_recordings(lively_model, world, ids[::-1], ScoreConfig(step_s=1.0, batch_size=3))
    one, other = (table.sort_values(key, ignore_index=True) for table in (one, other))
    pd.testing.assert_frame_equal(one, other, atol=1e-5, rtol=0)


def test_index_is_gone_through_once_and_not_for_each_chunk(
    lively_model: BirdModel, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, index = world.index["recording_id"].tolist(), world.index
    asked: list[int] = []

    class Counting:
        """The store, which counts how often its index is asked for."""

        read = world.read

        @property
        def index(self) -> pd.DataFrame:
            asked.append(1)
            return index

    config = ScoreConfig(step_s=1.0, batch_size=64)
    tables = []
    for n_recordings in (RECORDINGS_PER_CHUNK, 3):
        monkeypatch.setattr("bclef.inference.RECORDINGS_PER_CHUNK", n_recordings)
        asked.clear()
        tables.append(score_recordings(lively_model, Counting(), ids[:9], config))
        assert len(asked) == 1
    pd.testing.assert_frame_equal(*tables, atol=1e-5, rtol=0)


def test_model_comes_back_in_the_mode_it_came_in(lively_model: BirdModel, world: Any) -> None:
    windows = pd.DataFrame({"recording_id": ["f00"], "start_s": [0.0]})
    lively_model.train()
    before = {name: value.clone() for name, value in lively_model.state_dict().items()}
    score_listed(lively_model, world, windows, 1)
    assert lively_model.training
    after = lively_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_no_windows_give_no_rows(lively_model: BirdModel, world: Any) -> None:
    windows = pd.DataFrame({"recording_id": [], "start_s": []})
    assert score_listed(lively_model, world, windows, 4).shape == (0, 4)


def test_pool_and_this_process_give_the_same_table(
    model_dir: Path, world: Any, world_dir: Path
) -> None:
    ids = world.index["recording_id"].tolist()
    assert len(ids) > RECORDINGS_PER_CHUNK
    here = score_windows(model_dir, world_dir, ids, CONFIG)
    with executor(n_workers=0) as pool:
        there = score_windows(model_dir, world_dir, ids, CONFIG, pool)
    pd.testing.assert_frame_equal(here, there)


@pytest.mark.slow
def test_two_processes_give_the_same_table(model_dir: Path, world: Any, world_dir: Path) -> None:
    ids = world.index["recording_id"].tolist()
    here = score_windows(model_dir, world_dir, ids, CONFIG)
    with executor(n_workers=2) as pool:
        there = score_windows(model_dir, world_dir, ids, CONFIG, pool)
    pd.testing.assert_frame_equal(here, there, atol=1e-6, rtol=0)


def test_soundscapes_alone_are_scored_and_fit_their_schema(
    model_dir: Path, world_dir: Path, tmp_path: Path
) -> None:
    scores = score_soundscapes(model_dir, world_dir, CONFIG)
    assert set(scores["recording_id"]) == {f"s{position}" for position in range(8)}
    schema = window_scores_schema(["ani", "bee", "cro", "dov"])
    write_table(scores, tmp_path / "scores.parquet", schema)


def test_step_beyond_the_scored_part_is_refused_by_its_key(
    lively_model: BirdModel, world: Any
) -> None:
    ids = world.index["recording_id"].tolist()
    with pytest.raises(ScoreError, match=r"score\.step_s: found 60\.0"):
        score_recordings(lively_model, world, ids, ScoreConfig(step_s=60.0, batch_size=4))


def test_recordings_that_the_store_lacks_are_said(lively_model: BirdModel, world: Any) -> None:
    with pytest.raises(ScoreError, match="lacks 1 of 2 recordings to score, such as gone"):
        score_recordings(lively_model, world, ["f00", "gone"], CONFIG)
    with pytest.raises(ScoreError, match="no recordings to score"):
        score_recordings(lively_model, world, [], CONFIG)
