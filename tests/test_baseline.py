"""The regression: its features, its folds, and what it reaches on real recordings."""

from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from bclef import baseline
from bclef.audio import load, to_int16
from bclef.baseline import (
    BASELINE_SCORES,
    BaselineConfig,
    ClipReader,
    clip_statistics,
    out_of_fold_scores,
    validated_clips,
)
from bclef.frontend import FrontEndConfig
from bclef.metrics import fold_mean, macro_roc_auc, top1
from bclef.parallel import executor
from bclef.tables import read_table, write_table
from bclef.taxonomy import ClassList

RATE_HZ = 32_000
CONFIG = BaselineConfig(window_s=5.0, max_windows=12, inverse_penalty=0.1, max_iterations=1000)
FRONT_END = FrontEndConfig(
    n_fft=1024, win_samples=1024, hop_samples=320, n_mels=64, f_min_hz=50, f_max_hz=14_000,
    mel_scale="htk", mel_norm=None, normalise_window=False, power=2, wave_scaling="none",
    top_db=80, scaling="n80", padding="reflect", channels="mono", image_size=None,
)  # fmt: skip


class ToneStore:
    """A tone for every recording: its name says how high and how long."""

    def __init__(self, directory: Path) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def read(self, recording_id: str) -> NDArray[np.int16]:
        height_hz, length_s = map(float, recording_id.split("-")[:2])
        time_s = np.arange(round(length_s * RATE_HZ)) / RATE_HZ
        return np.round(8000 * np.sin(2 * np.pi * height_hz * time_s)).astype(np.int16)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> ClipReader:
    monkeypatch.setattr(baseline, "Store", ToneStore)
    return ClipReader(Path(), RATE_HZ, FRONT_END, CONFIG)


def test_band_with_the_highest_mean_is_the_tones(reader: ClipReader) -> None:
    low, high = reader.statistics(["500-6", "8000-6"])[:, :64].argmax(axis=1)
    assert low < 20
    assert high > 45


def test_channels_made_of_the_image_add_nothing_to_the_statistics(reader: ClipReader) -> None:
    with_deltas = FRONT_END.model_copy(update={"channels": "deltas"})
    other = ClipReader(Path(), RATE_HZ, with_deltas, CONFIG)
    np.testing.assert_array_equal(other.statistics(["1000-5"]), reader.statistics(["1000-5"]))


def test_short_clip_is_repeated_and_so_sounds_like_a_long_one(reader: ClipReader) -> None:
    short, long = reader.statistics(["1000-0.5", "1000-5"])
    np.testing.assert_allclose(short[:64], long[:64], atol=0.05)


def test_long_clip_is_sampled_to_its_end_in_bounded_pieces(
    reader: ClipReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    real = baseline.log_mel
    monkeypatch.setattr(
        baseline, "log_mel", lambda wave, *rest: (seen.append(wave.shape), real(wave, *rest))[1]
    )
    reader.statistics(["1000-70", "1000-12"])
    assert seen == [(12, 5 * RATE_HZ), (2, 5 * RATE_HZ)]


def test_statistics_keep_the_order_of_clips_over_tasks(reader: ClipReader) -> None:
    names = [f"{500 + 300 * i}-5-{i}" for i in range(18)]  # more than one task
    with executor(n_workers=0) as pool:
        table = clip_statistics(reader, names, pool)
    np.testing.assert_array_equal(table, np.concatenate([reader.statistics([n]) for n in names]))


def table_of_clips(folds: list[int | None], labels: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "recording_id": pd.Series([f"r{i}" for i in range(len(labels))], dtype="string"),
            "label": pd.Series(list(labels), dtype="string"),
            "secondary_labels": [[] for _ in labels],
            "fold": pd.Series(folds, dtype="Int64"),
        }
    )


def test_scores_of_a_clip_come_from_a_model_that_has_not_seen_its_fold() -> None:
    clips = table_of_clips([0, 0, 1, 1, None, None], "abab" + "ab")
    statistics = np.array([[0], [1], [0], [1], [0], [1]], dtype=np.float32)
    classes = ClassList(("a", "b"))
    before = out_of_fold_scores(clips, statistics, classes, CONFIG)
    assert before["recording_id"].tolist() == ["r0", "r1", "r2", "r3"]
    assert (before["a"] > before["b"]).tolist() == [True, False, True, False]
    # A lie in fold 0 moves fold 1, whose model has trained on it, and not fold 0.
    lying = clips.assign(label=pd.Series(list("baab") + list("ab"), dtype="string"))
    after = out_of_fold_scores(lying, statistics, classes, CONFIG)
    moved = (after[["a", "b"]] != before[["a", "b"]]).any(axis=1)
    assert moved.tolist() == [False, False, True, True]


def test_class_without_a_training_clip_scores_zero_and_keeps_its_column(tmp_path: Path) -> None:
    clips = table_of_clips([0, 0, 1, 1, 1], "ababc")
    statistics = np.array([[0], [1], [0], [1], [2]], dtype=np.float32)
    scores = out_of_fold_scores(clips, statistics, ClassList(("c", "b", "a")), CONFIG)
    assert scores.columns.tolist() == ["recording_id", "c", "b", "a"]
    assert scores["c"].tolist()[2:] == [0, 0, 0]
    assert (scores["c"].iloc[:2] > 0).all()
    schema = BASELINE_SCORES.with_columns(dict.fromkeys("cba", "float32"))
    write_table(scores, tmp_path / "b.parquet", schema)
    assert len(read_table(tmp_path / "b.parquet", schema)) == 5


def test_only_focal_clips_of_target_classes_take_part() -> None:
    index = pd.DataFrame(
        {
            "recording_id": ["z", "y", "x", "w"],
            "role": ["focal", "soundscape", "focal", "focal"],
            "label": ["a", "a", "other", "b"],
            "secondary_labels": [[], [], [], []],
        }
    )
    splits = pd.DataFrame({"recording_id": list("wxyz"), "fold": [1, 0, 0, None]})
    clips = validated_clips(index, splits, ClassList(("a", "b")))
    assert clips["recording_id"].tolist() == ["w", "z"]
    assert clips["fold"].tolist()[0] == 1


class FileStore(ToneStore):
    """Real files by path."""

    def read(self, recording_id: str) -> NDArray[np.int16]:
        return to_int16(load(Path(recording_id), RATE_HZ))


@pytest.mark.slow
def test_real_species_are_told_apart_well_above_chance(
    real_audio: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baseline, "Store", FileStore)
    listed = pd.read_csv(real_audio / "index.csv", dtype="string")
    listed = listed[listed["part"] == "species"]
    groups = sorted(listed["group_id"].unique())
    clips = pd.DataFrame(
        {
            "recording_id": [str(real_audio / path) for path in listed["path"]],
            "label": listed["scientific_name"].to_numpy(),
            "fold": [groups.index(group) % 3 for group in listed["group_id"]],
        }
    )
    classes = ClassList(tuple(sorted(clips["label"].unique())))
    reader = ClipReader(Path(), RATE_HZ, FRONT_END, CONFIG)
    with executor(n_workers=0) as pool:
        statistics = clip_statistics(reader, clips["recording_id"].tolist(), pool)
    scores = out_of_fold_scores(clips, statistics, classes, CONFIG)[list(classes.labels)]
    truth = classes.targets([[label] for label in clips["label"]])
    assert fold_mean(macro_roc_auc, clips["fold"])(truth, scores) == pytest.approx(0.85, abs=0.03)
    assert top1(truth, scores) > 0.3
