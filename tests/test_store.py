"""The feature store: what is written is read back, cut anywhere, from any process or thread."""

import multiprocessing
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pandas as pd
import pytest

from bclef import audio, sidecars
from bclef.clips import StoreError
from bclef.features import (
    FEATURE_INDEX,
    FeaturesConfig,
    activity,
    feature_counts,
    usable_clips,
    write_features,
)
from bclef.parallel import executor
from bclef.store import FEATURE_INDEX_NEEDS, FeatureStoreError, Store
from bclef.tables import TableError, read_table

RATE_HZ = 32_000
STEP = 3_200
LENGTHS = {"a": 50_000, "b": 3_200, "c": 99_999, "d": 1, "s": 2_000_000, "w": 32_000}
ROLES = {"a": "focal", "b": "focal", "c": "focal", "d": "focal", "s": "soundscape", "w": "noise"}


def recordings_table():
    return pd.DataFrame(
        {
            "recording_id": list(LENGTHS),
            "role": list(ROLES.values()),
            "label": pd.Series(["merl", "pica", "merl", "turd", None, None], dtype="string"),
            "secondary_labels": [["pica"], [], ["corv"], [], [], []],
            "annotated": [name == "s" for name in LENGTHS],
            "rating": pd.Series([4.5, None, 0, None, None, None], dtype="float32"),
            "source": pd.Series([*["birds"] * 4, "sites", "sites"], dtype="string"),
        }
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The root of an audio store, and the clips table of what is in it."""
    root = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(0)
    (root / "clips").mkdir()
    for name, n_samples in LENGTHS.items():
        wave = (0.1 * rng.standard_normal(n_samples)).astype(np.float32)
        audio.write_ogg(root / f"clips/{name}.ogg", [wave], RATE_HZ)
        sidecars.write_sidecar(root / f"clips/{name}.ogg", {})
    clips = pd.DataFrame(
        {
            "recording_id": list(LENGTHS),
            "path": [f"clips/{name}.ogg" for name in LENGTHS],
            "n_samples": pd.Series(list(LENGTHS.values()), dtype="Int64"),
            "duplicate_of": pd.Series([None] * len(LENGTHS), dtype="string"),
            "error": pd.Series([None] * len(LENGTHS), dtype="string"),
        }
    )
    return root, clips


def build(archive, directory, shard_hours=110_000 / 3600 / RATE_HZ, n_workers=0):
    root, clips = archive
    usable = usable_clips(clips, recordings_table())
    config = FeaturesConfig(shard_hours=shard_hours)
    with executor(n_workers=n_workers) as pool:
        return write_features(usable, root, directory, config, RATE_HZ, pool)


@pytest.fixture(scope="module")
def directory(archive, tmp_path_factory):
    folder = tmp_path_factory.mktemp("features")
    build(archive, folder)
    return folder


def test_every_recording_reads_back_as_the_int16_of_its_clip(archive, directory):
    root, _ = archive
    with Store(directory) as store:
        for name in LENGTHS:
            wave = audio.load(root / f"clips/{name}.ogg", RATE_HZ)
            np.testing.assert_array_equal(store.read(name), audio.to_int16(wave))


def test_random_crops_equal_slices_of_the_whole(directory, rng):
    with Store(directory) as store:
        whole = store.read("s")
        for _ in range(50):
            n_samples = int(rng.integers(0, 160_000))
            first = int(rng.integers(0, len(whole) - n_samples))
            crop = store.read("s", first, n_samples)
            assert crop.dtype == np.int16
            np.testing.assert_array_equal(crop, whole[first : first + n_samples])


def test_crop_is_a_copy_that_may_be_changed(directory):
    with Store(directory) as store:
        crop = store.read("a", 0, 10)
        crop += 1
        assert (store.read("a", 0, 10) + 1 == crop).all()


@pytest.mark.parametrize(("first", "n_samples"), [(-1, 5), (49_999, 2), (50_001, 0), (0, -1)])
def test_crop_beyond_the_recording_is_refused(directory, first, n_samples):
    with Store(directory) as store, pytest.raises(ValueError, match="a: asked for samples"):
        store.read("a", first, n_samples)


def test_unknown_recording_is_a_key_error(directory):
    with Store(directory) as store, pytest.raises(KeyError, match="nobody"):
        store.read("nobody")


def test_shards_are_cut_by_hours_and_apart_by_use(directory):
    index = read_table(directory / "index.parquet", FEATURE_INDEX)
    assert dict(zip(index["recording_id"], index["shard"], strict=True)) == {
        "a": "labelled-0000.h5",
        "b": "labelled-0000.h5",
        "c": "labelled-0001.h5",
        "d": "labelled-0001.h5",
        "s": "soundscapes-0000.h5",
        "w": "noise-0000.h5",
    }
    assert (index["first_sample"] % STEP == 0).all()
    assert index["n_samples"].tolist() == list(LENGTHS.values())
    assert index["annotated"].tolist() == [name == "s" for name in LENGTHS]
    assert index["rating"].fillna(-1).tolist() == [4.5, -1, 0, -1, -1, -1]
    assert index["source"].tolist() == [*["birds"] * 4, "sites", "sites"]


def test_counts_are_by_role(directory):
    index = read_table(directory / "index.parquet", FEATURE_INDEX)
    assert feature_counts(index, 3_200) == {
        "n_shards": 4,
        "n_recordings": {"focal": 4, "noise": 1, "soundscape": 1},
        "hours": {"focal": 0.0133, "noise": 0.0028, "soundscape": 0.1736},
    }


def test_shards_do_not_depend_on_workers_or_the_day(archive, directory, tmp_path):
    build(archive, tmp_path)
    names = sorted(path.name for path in directory.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == (directory / name).read_bytes()


@pytest.mark.slow
def test_shards_written_by_worker_processes_are_the_same(archive, directory, tmp_path):
    build(archive, tmp_path, n_workers=2)
    for path in directory.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_shards_of_an_earlier_run_are_removed(archive, tmp_path):
    (tmp_path / "labelled-0009.h5").write_bytes(b"old")
    build(archive, tmp_path, shard_hours=1.0)
    assert sorted(path.name for path in tmp_path.glob("*.h5")) == [
        "labelled-0000.h5",
        "noise-0000.h5",
        "soundscapes-0000.h5",
    ]


def test_dataset_is_contiguous_and_carries_rate_and_version(directory):
    with h5py.File(directory / "labelled-0000.h5") as file:
        assert file["audio"].chunks is None
        assert file["audio"].compression is None
        assert file["audio"].dtype == np.int16
        assert dict(file.attrs) == {"sample_rate_hz": RATE_HZ, "version": 1}
        assert len(file["activity"]) * STEP == len(file["audio"])


def test_activity_has_one_level_per_step_and_shows_where_the_sound_is(directory):
    with Store(directory) as store:
        assert [len(store.activity(name)) for name in LENGTHS] == [16, 1, 32, 1, 625, 10]
        curve = store.activity("w")
    # White noise of .1: the difference of two independent samples has twice the power.
    np.testing.assert_allclose(curve, -20 + 10 * np.log10(2), atol=1.5)


def test_activity_equals_a_slow_reference_and_silence_is_finite(rng):
    pcm = np.concatenate([rng.integers(-9_000, 9_000, 8_000), np.zeros(6_000)]).astype(np.int16)
    curve = activity(pcm, STEP)
    assert len(curve) == 5
    for step in range(5):
        part = pcm[max(0, step * STEP - 1) : (step + 1) * STEP].astype(np.float64) / 32_768
        power = np.sum(np.diff(part) ** 2) / min(STEP, len(pcm) - step * STEP)
        assert curve[step] == pytest.approx(10 * np.log10(max(power, 1e-10)), abs=1e-3)
    assert curve[-1] == -100


def test_activity_ranks_a_bird_over_louder_wind():
    times_s = np.arange(RATE_HZ) / RATE_HZ
    wind = 8_000 * np.sin(2 * np.pi * 100 * times_s)
    bird = 1_000 * np.sin(2 * np.pi * 5_000 * times_s)
    levels = [activity(wave.astype(np.int16), STEP)[1:].mean() for wave in (wind, bird)]
    assert levels[1] > levels[0] + 6


def test_labels_of_copies_join_those_of_the_kept_recording(archive):
    _, clips = archive
    clips = clips.assign(duplicate_of=pd.Series([None, "a", "a", None, None, "s"], dtype="string"))
    usable = usable_clips(clips, recordings_table()).set_index("recording_id")
    assert usable.index.tolist() == ["a", "d", "s"]
    assert usable["label"].fillna("").tolist() == ["merl", "turd", ""]
    assert usable["secondary_labels"].tolist() == [["pica", "corv"], [], []]
    clips = clips.assign(duplicate_of=pd.Series([None, "s", "s", None, None, None], dtype="string"))
    usable = usable_clips(clips, recordings_table()).set_index("recording_id")
    assert usable.loc["s", "secondary_labels"] == ["pica", "merl", "corv"]
    assert pd.isna(usable.loc["s", "label"])


def test_recordings_with_an_error_stay_out(archive):
    _, clips = archive
    clips = clips.assign(error=pd.Series(["silent", *[None] * 5], dtype="string"))
    assert "a" not in usable_clips(clips, recordings_table())["recording_id"].tolist()


def test_missing_clips_stop_the_stage_with_examples_and_the_cure(archive, tmp_path):
    root, clips = archive
    lost = clips.assign(path=[f"clips/lost-{name}.ogg" for name in LENGTHS])
    with pytest.raises(StoreError, match=r"6 files .*lost-a.*lost-b.*dvc repro -f -s resample$"):
        build((root, lost), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_clip_that_is_not_what_the_table_says_leaves_no_shard(archive, tmp_path):
    root, clips = archive
    wrong = clips.assign(n_samples=clips["n_samples"] + 1)
    with pytest.raises(FeatureStoreError, match=r"a\.ogg: 50000 samples .* 50001 .*resample"):
        build((root, wrong), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        ("emptied", "found 0 bytes, expected"),
        ("truncated", "found 1000 bytes, expected"),
        ("replaced", "found sha256 [0-9a-f]{64}, expected [0-9a-f]{64}"),
        ("no sidecar", "c.json does not say what the file should be"),
        ("undecodable", "not_audio"),
    ],
)
def test_damaged_clip_stops_the_stage_with_its_name_and_the_cure(archive, tmp_path, damage, found):
    root, clips = archive
    shutil.copytree(root / "clips", tmp_path / "clips")
    clip = tmp_path / "clips/c.ogg"
    content = clip.read_bytes()
    if damage == "no sidecar":
        sidecars.forget(clip)
    elif damage == "replaced":
        clip.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "undecodable":
        clip.write_bytes(b"<html>" * 100)
        sidecars.write_sidecar(clip, {})
    else:
        clip.write_bytes(b"" if damage == "emptied" else content[:1000])
    with pytest.raises(
        FeatureStoreError,
        match=rf"clips/c\.ogg: {found}.*; make it again: dvc repro -f -s resample$",
    ):
        build((tmp_path, clips), tmp_path / "features")
    assert sidecars.fault_of(clip)  # so resample does make it again


def test_store_may_be_pickled_after_use_and_stays_small(directory):
    with Store(directory) as store:
        whole = store.read("s")
        copy = pickle.dumps(store)
        assert len(copy) < 20_000
        np.testing.assert_array_equal(pickle.loads(copy).read("s"), whole)  # noqa: S301 - our own bytes


def _read_sum(store, queue):
    queue.put(int(store.read("s").astype(np.int64).sum()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_store_works_in_other_processes_after_use_in_this_one(directory, method):
    context = multiprocessing.get_context(method)
    with Store(directory) as store:
        expected = int(store.read("s").astype(np.int64).sum())
        queue = context.Queue()
        processes = [context.Process(target=_read_sum, args=(store, queue)) for _ in range(2)]
        for process in processes:
            process.start()
        assert [queue.get(timeout=60) for _ in processes] == [expected, expected]
        for process in processes:
            process.join()


def test_threads_may_share_a_store(directory):
    with Store(directory) as store, ThreadPoolExecutor(8) as threads:
        whole = Store(directory).read("s")
        crops = threads.map(lambda first: store.read("s", first, 1_000), range(0, 400_000, 1_000))
        np.testing.assert_array_equal(np.concatenate(list(crops)), whole[:400_000])


def test_store_that_is_not_whole_is_refused_with_the_cure(archive, tmp_path):
    with pytest.raises(TableError, match="no such table"):
        Store(tmp_path)
    build(archive, tmp_path)
    shards = sorted(tmp_path.glob("*.h5"))
    shards[0].unlink()
    with h5py.File(shards[1], "a") as file:
        file.attrs["version"] = 99
    shards[2].write_bytes(b"no HDF5")
    with h5py.File(shards[3], "a") as file:
        del file["audio"]
        file.create_dataset("audio", data=np.zeros(5, np.int16))
    store = Store(tmp_path)
    for name, found in (
        ("a", "No such file"),
        ("c", "layout 99"),
        ("w", "whole"),
        ("s", "5 samples"),
    ):
        with pytest.raises(FeatureStoreError, match=f"{found}.*dvc repro -f -s features"):
            store.read(name)


def test_reader_needs_what_the_writer_writes():
    assert {**FEATURE_INDEX.columns} == FEATURE_INDEX_NEEDS


def test_no_usable_clip_gives_an_empty_store(archive, tmp_path):
    root, clips = archive
    build((root, clips[:0]), tmp_path)
    assert len(Store(tmp_path).index) == 0


def test_recording_longer_than_a_shard_is_a_shard_alone(archive, tmp_path):
    index = build(archive, tmp_path, shard_hours=60_000 / 3600 / RATE_HZ).set_index("recording_id")
    assert index.loc[["a", "b", "c", "d"], "shard"].str[9:13].astype(int).tolist() == [0, 0, 1, 2]
