"""Raw files to clips: what is kept, what is refused and why, and that work is done once."""

import hashlib
import json
import os
import sys
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import soundfile

from bclef import audio, clips
from bclef.clips import (
    CLIPS,
    ClipsFailedError,
    NoiseLikeConfig,
    ResampleConfig,
    StoreError,
    check_failures,
    clip_counts,
    make_clips,
)
from bclef.parallel import executor
from bclef.tables import read_table, write_table
from tests.sounds import song

RATE_HZ = 32_000
CONFIG = ResampleConfig.from_tree(
    {
        "min_duration_s": 0.5,
        "silent_dbfs": -80.0,
        "max_clipped_share": None,
        "noise_like": None,
        "max_failed_share": 0.5,
        "duplicates": {
            "max_bit_error_rate": 0.25,
            "min_overlap_s": 1.0,
            "min_overlap_share": 0.5,
            "min_covered_share": 0.8,
        },
    },
    "test",
)


def noise(duration_s, seed=0, sample_rate_hz=RATE_HZ):
    n_samples = round(duration_s * sample_rate_hz)
    return (0.1 * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


class Archive:
    """An audio store with raw files in it."""

    def __init__(self, root):
        self.root = root
        self.rows = {}
        self.roles = {}
        (root / "raw").mkdir()

    def put(self, name, wave, sample_rate_hz=RATE_HZ, **options):
        soundfile.write(self.root / "raw" / name, wave, sample_rate_hz, **options)
        return self.row(name)

    def put_bytes(self, name, content):
        (self.root / "raw" / name).write_bytes(content)
        return self.row(name)

    def row(self, name, error=None, detail=None):
        path = self.root / "raw" / name
        sha256 = None if error else hashlib.sha256(path.read_bytes()).hexdigest()
        self.rows[name] = (name, None if error else f"raw/{name}", sha256, error, detail)
        return path

    @property
    def files(self):
        columns = ["recording_id", "path", "sha256", "error", "detail"]
        return pd.DataFrame(list(self.rows.values()), columns=columns).astype("string")

    @property
    def recordings(self):
        ids = self.files["recording_id"]
        roles = [self.roles.get(recording_id, "focal") for recording_id in ids]
        return pd.DataFrame({"recording_id": ids, "role": roles, "annotated": False})

    def clips(self, n_workers=0, config=CONFIG):
        with executor(n_workers=n_workers) as pool:
            made = make_clips(self.files, self.recordings, self.root, config, RATE_HZ, pool)
        return made.set_index("recording_id", drop=False)


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path)


def test_clip_is_the_recording_at_the_wanted_rate_with_its_measures(archive):
    times_s = np.arange(3 * 48_000) / 48_000
    tone = (0.5 * np.sin(2 * np.pi * 3_000 * times_s)).astype(np.float32)
    archive.put("a.wav", np.stack([tone, tone], axis=1), 48_000)
    row = archive.clips().loc["a.wav"]
    wave = audio.load(archive.root / row["path"], RATE_HZ)
    assert len(wave) == row["n_samples"] == 3 * RATE_HZ
    assert np.argmax(np.abs(np.fft.rfft(wave))) == 3 * 3_000
    assert row["peak_dbfs"] == pytest.approx(-6.02, abs=0.05)
    assert row["rms_dbfs"] == pytest.approx(-9.03, abs=0.02)
    assert row["clipped_share"] == 0
    assert (row["source_sample_rate_hz"], row["n_channels"]) == (48_000, 2)
    assert row[["duplicate_of", "error", "detail"]].isna().all()


def test_every_useless_recording_is_a_row_with_its_reason(archive):
    archive.put("good.wav", noise(2))
    archive.put("silent.wav", np.zeros(2 * RATE_HZ, np.float32))
    archive.put("steady.wav", np.full(2 * RATE_HZ, 0.25, np.float32))
    archive.put("short.wav", noise(0.4))
    wav = archive.put("cut.wav", noise(2))
    archive.put_bytes("cut.wav", wav.read_bytes()[:60_000])
    archive.put_bytes("head.wav", b"RIFF\x24\0\0\0WAVEfm")
    archive.put_bytes("page.mp3", b"<!DOCTYPE html><title>404 Not Found</title>")
    archive.put_bytes("empty.mp3", b"")
    flac = archive.put("broken.flac", noise(3))
    content = bytearray(flac.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 20_000] = bytes(20_000)
    archive.put_bytes("broken.flac", content)
    archive.row("gone.wav", error="gone", detail="HTTP 404")
    made = archive.clips()
    assert made["error"].fillna("").to_dict() == {
        "good.wav": "",
        "silent.wav": "silent",
        "steady.wav": "silent",
        "short.wav": "too_short",
        "cut.wav": "truncated",
        "head.wav": "corrupt",
        "page.mp3": "not_audio",
        "empty.mp3": "empty",
        "broken.flac": "corrupt",
        "gone.wav": "gone",
    }
    failed = made[made["error"].notna()]
    assert failed["path"].isna().all()
    assert failed["detail"].str.len().gt(0).all()
    write_table(made, archive.root / "clips.parquet", CLIPS)
    again = read_table(archive.root / "clips.parquet", CLIPS)
    assert again["error"].notna().sum() == 9


def test_clipped_focal_recordings_are_refused_where_a_limit_is_set(archive):
    loud = np.clip(30 * noise(2), -1, 1)
    archive.put("loud.wav", loud)
    archive.put("scape.wav", np.clip(30 * noise(2, seed=1), -1, 1))
    archive.put("fair.wav", noise(2, seed=2))
    archive.roles["scape.wav"] = "soundscape"
    assert archive.clips()["error"].isna().all()
    share = float((np.abs(loud) >= 0.99).mean())
    for limit, expected in ((share - 0.01, "clipped"), (share + 0.01, "")):
        made = archive.clips(config=CONFIG.model_copy(update={"max_clipped_share": limit}))
        assert made["error"].fillna("").to_dict() == {
            "loud.wav": expected,
            "scape.wav": "",
            "fair.wav": "",
        }
    made = archive.clips(config=CONFIG.model_copy(update={"max_clipped_share": 0.5}))
    assert made.loc["loud.wav", "detail"] == f"{share:.1%} of the samples"
    assert made.loc["loud.wav", "clipped_share"] == pytest.approx(share, abs=1e-3)


def test_one_second_of_noise_is_refused_but_not_as_noise_nor_when_longer(archive):
    rule = NoiseLikeConfig(max_duration_s=1.5, min_flatness=0.45)
    archive.put("noise.wav", noise(1))
    archive.put("role.wav", noise(1, seed=1))
    archive.put("long.wav", noise(2, seed=2))
    archive.put("bird.wav", song(3, 1.4))
    archive.roles["role.wav"] = "noise"
    assert archive.clips()["error"].isna().all()
    made = archive.clips(config=CONFIG.model_copy(update={"noise_like": rule}))
    assert made["error"].fillna("").to_dict() == {
        "noise.wav": "noise_like",
        "role.wav": "",
        "long.wav": "",
        "bird.wav": "",
    }
    assert pd.isna(made.loc["noise.wav", "path"])
    assert made.loc["noise.wav", "detail"].startswith("1.00 s, flatness 0.5")
    assert made["duration_s"].tolist() == pytest.approx([1.4, 2, 1, 1])


def test_same_sound_in_another_lossless_container_is_an_exact_duplicate(archive):
    pcm = audio.to_int16(noise(4, sample_rate_hz=44_100))
    archive.put("b.wav", pcm, 44_100)
    archive.put("a.flac", pcm, 44_100)
    archive.put("c.wav", noise(4, seed=1), 44_100)
    made = archive.clips()
    assert made["duplicate_of"].fillna("").to_dict() == {
        "a.flac": "",
        "b.wav": "a.flac",
        "c.wav": "",
    }
    assert made.loc["b.wav", "duplicate_kind"] == "exact"
    assert made["pcm_hash"].nunique() == 2
    assert clip_counts(made.reset_index(drop=True), RATE_HZ)["duplicates"] == {"exact": 1}


def test_second_run_decodes_nothing_and_gives_the_same_table(archive, monkeypatch):
    archive.put("a.wav", noise(2))
    archive.put_bytes("page.mp3", b"<html>")
    first = archive.clips()
    encoded = (archive.root / first.loc["a.wav", "path"]).read_bytes()
    monkeypatch.delattr(clips.audio, "decode_blocks")
    pd.testing.assert_frame_equal(archive.clips(), first)
    assert (archive.root / first.loc["a.wav", "path"]).read_bytes() == encoded


def test_thresholds_change_without_a_second_decoding(archive, monkeypatch):
    archive.put("a.wav", noise(2))
    assert archive.clips()["error"].isna().all()
    monkeypatch.delattr(clips.audio, "decode_blocks")
    strict = CONFIG.model_copy(update={"min_duration_s": 5.0})
    assert archive.clips(config=strict)["error"].tolist() == ["too_short"]


def test_clip_that_was_deleted_is_made_again(archive):
    archive.put("a.wav", noise(2))
    path = archive.root / archive.clips().loc["a.wav", "path"]
    path.unlink()
    assert archive.clips().loc["a.wav", "error"] is pd.NA
    assert path.is_file()


def _changed(content):
    """Returns as many bytes with one of them changed."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("change", [_changed, lambda content: content[:-9], lambda content: b""])
def test_clip_whose_bytes_changed_is_made_again(archive, change):
    archive.put("a.wav", noise(2))
    first = archive.clips()
    path = archive.root / first.loc["a.wav", "path"]
    path.write_bytes(change(path.read_bytes()))
    pd.testing.assert_frame_equal(archive.clips(), first)
    assert len(audio.load(path, RATE_HZ)) == 2 * RATE_HZ


@pytest.mark.parametrize("lost", ["n_bytes", "sha256", "fingerprint", "rms_dbfs", "n_channels"])
def test_sidecar_without_one_of_its_keys_counts_as_absent(archive, lost):
    archive.put("a.wav", noise(2))
    first = archive.clips()
    sidecar = (archive.root / first.loc["a.wav", "path"]).with_suffix(".json")
    whole = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({key: value for key, value in whole.items() if key != lost}))
    pd.testing.assert_frame_equal(archive.clips(), first)
    assert json.loads(sidecar.read_text()).keys() == whole.keys()


@pytest.mark.parametrize("text", ["{}", '{"error": "corrupt"}', '{"error": null, "detail": null}'])
def test_hollow_sidecar_counts_as_absent(archive, text):
    archive.put("a.wav", noise(2))
    first = archive.clips()
    (archive.root / first.loc["a.wav", "path"]).with_suffix(".json").write_text(text)
    pd.testing.assert_frame_equal(archive.clips(), first)


def test_raw_file_whose_bytes_changed_is_damaged_and_fetched_anew(archive):
    raw = archive.put("a.wav", noise(2))
    raw.with_suffix(".json").write_text("{}")
    content = raw.read_bytes()
    raw.write_bytes(_changed(content))
    row = archive.clips().loc["a.wav"]
    assert row["error"] == "damaged"
    assert pd.isna(row["path"])
    found, expected = (hashlib.sha256(some).hexdigest() for some in (_changed(content), content))
    assert row["detail"] == (
        f"a.wav: found sha256 {found}, expected {expected}; to fetch it anew: "
        "dvc repro -f -s fetch resample"
    )
    assert not raw.with_suffix(".json").exists()  # so fetch asks for it
    assert not (archive.root / "clips").exists()  # nothing is kept of what was found
    raw.write_bytes(content)
    assert archive.clips().loc["a.wav", "error"] is pd.NA


def test_changed_bytes_or_rate_or_code_make_a_new_clip(archive, monkeypatch):
    archive.put("a.wav", noise(2))
    paths = {archive.clips().loc["a.wav", "path"]}
    monkeypatch.setattr(clips.codehash, "fingerprint", lambda *modules: "0" * 16)
    paths.add(archive.clips().loc["a.wav", "path"])
    archive.put("a.wav", noise(2, seed=1))
    paths.add(archive.clips().loc["a.wav", "path"])
    assert len(paths) == 3


def test_overshooting_recording_is_turned_down_rather_than_clipped(archive):
    times_s = np.arange(4 * RATE_HZ) / RATE_HZ
    wave = (1.4 * np.sin(2 * np.pi * 2_000 * times_s)).astype(np.float32)
    archive.put("loud.wav", wave, subtype="FLOAT")
    row = archive.clips().loc["loud.wav"]
    clip = audio.load(archive.root / row["path"], RATE_HZ)
    assert row["peak_dbfs"] == pytest.approx(20 * np.log10(1.4), abs=1e-3)
    assert row["clipped_share"] == pytest.approx(0.5, abs=0.2)
    assert float(clip @ wave / (wave @ wave)) == pytest.approx(1 / 1.4, rel=0.01)


def test_missing_raw_files_stop_the_stage_with_examples_and_the_cure(archive):
    for number in range(4):
        archive.put(f"{number}.wav", noise(1, seed=number))
    archive.clips()
    for path in (archive.root / "raw").iterdir():
        path.unlink()
    assert len(archive.clips()) == 4  # the clips are there, nothing is missed
    for path in (archive.root / "clips").glob("*.ogg"):
        path.unlink()
    with pytest.raises(StoreError, match=r"^4 files .*0\.wav, .*1\.wav; .*dvc repro -f -s fetch$"):
        archive.clips()


def test_killed_encoding_leaves_no_half_clip(archive, monkeypatch):
    archive.put("a.wav", noise(10))

    def broken(*_):
        yield noise(5)
        raise KeyboardInterrupt

    monkeypatch.setattr(clips.audio, "decode_blocks", broken)
    with pytest.raises(KeyboardInterrupt):
        archive.clips()
    assert list((archive.root / "clips").iterdir()) == []


def test_too_many_failures_stop_the_stage_and_failed_fetches_do_not_count(archive):
    archive.put("a.wav", noise(1))
    archive.put_bytes("page.mp3", b"<html>")
    for number in range(8):
        archive.row(f"gone{number}.wav", error="gone", detail="HTTP 404")
    made = archive.clips()
    check_failures(made, archive.files, CONFIG)
    strict = CONFIG.model_copy(update={"max_failed_share": 0.4})
    with pytest.raises(
        ClipsFailedError, match=r"1 of 2 files(.|\n)*1 not_audio, such as page\.mp3"
    ):
        check_failures(made, archive.files, strict)


def _die_on_a_marked_file(job):
    if "deadly" in job.raw.name:
        os._exit(1)
    return clips._encode(job)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a fork server")
def test_worker_that_dies_costs_only_its_own_recording(archive, monkeypatch):
    for name in ("a.wav", "deadly.wav", "b.wav"):
        archive.put(name, noise(1, seed=len(name) + ord(name[0])))
    monkeypatch.setattr(clips, "_make_clip", _die_on_a_marked_file)
    made = archive.clips(n_workers=2)
    assert made["error"].fillna("").tolist() == ["", "", "worker_died"]
    assert "deadly.wav" in made.loc["deadly.wav", "detail"]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_recording(archive):
    wave = np.tile(audio.to_int16(noise(60, sample_rate_hz=8_000)), 15)
    path = archive.put("long.wav", wave, 8_000)
    job = clips._Job(path, "", archive.root / "clips" / "long.ogg", RATE_HZ)
    tracemalloc.start()
    clips._encode(job)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 40e6  # the whole wave would be 115 MB


def test_empty_table_of_files_gives_an_empty_table_of_clips(archive):
    write_table(archive.clips(), archive.root / "clips.parquet", CLIPS)
    assert len(read_table(archive.root / "clips.parquet", CLIPS)) == 0
