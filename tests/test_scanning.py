"""Scanning of files, on a graph whose scores are known: mean |sample| of each third of a second."""

import os
import signal

import numpy as np
import pandas as pd
import pytest
import soundfile

from bclef import scanning
from bclef.detections import failed
from bclef.exportfolder import ExportError
from bclef.scanning import ScanJob, ScanOptions, list_files, scan_file, scan_recordings

RATE_HZ = 30_000


@pytest.fixture
def export(make_export, tmp_path):
    return make_export(tmp_path / "export")


@pytest.fixture
def options(export):
    return ScanOptions(export, threshold=0.25, step_s=None)


def write_thirds(path, *levels):
    """Writes one third of a second at each level."""
    soundfile.write(path, np.repeat(levels, 10_000), RATE_HZ, subtype="FLOAT")
    return path


def die_or_scan(job):
    if job.path.name == "deadly.wav":
        os.kill(os.getpid(), signal.SIGKILL)
    return scan_file(job)


def test_detections_are_the_scores_at_or_above_the_threshold(options, tmp_path):
    path = write_thirds(tmp_path / "a.wav", 0.2, 0.5, 0.25, 0.75, 0.0, 0.1)
    scan = scan_file(ScanJob(path, options, 1))
    rows = scan.detections.to_pandas()
    assert rows["recording"].unique().tolist() == [str(path)]
    assert rows["start_s"].tolist() == [0, 0, 1]
    assert rows["end_s"].tolist() == [1, 1, 2]
    assert rows["label"].tolist() == ["middle", "last", "first"]
    assert rows["scientific_name"].tolist() == ["Avis middle", "Avis last", "Avis first"]
    np.testing.assert_allclose(rows["confidence"], [0.5, 0.25, 0.75], rtol=1e-6)
    (summary,) = scan.summary.to_pylist()
    assert summary["max_confidence"] == 0.75
    assert (summary["n_windows"], summary["n_detections"], summary["duration_s"]) == (2, 3, 2.0)
    assert summary["error"] is None


def test_detections_are_placed_at_the_scored_part_not_at_what_was_heard(make_export, tmp_path):
    model = make_export(tmp_path / "context", scored_samples=10_000)
    options = ScanOptions(model, threshold=0.7, step_s=None)
    path = write_thirds(tmp_path / "a.wav", 0.0, 0.75, 0.0, 0.0)
    rows = scan_file(ScanJob(path, options, 1)).detections.to_pandas()
    found = {row["label"]: (row["start_s"], row["end_s"]) for _, row in rows.iterrows()}
    assert found == {
        "last": (0, pytest.approx(1 / 3)),  # heard after the first third
        "middle": (pytest.approx(1 / 3), pytest.approx(2 / 3)),
        "first": (pytest.approx(2 / 3), pytest.approx(1)),  # heard before the last but one
    }


def test_last_detection_ends_where_the_recording_does(options, tmp_path):
    path = write_thirds(tmp_path / "a.wav", 0.0, 0.0, 0.0, 0.8)
    rows = scan_file(ScanJob(path, options, 1)).detections.to_pandas()
    assert rows["end_s"].tolist() == [pytest.approx(4 / 3)]


def test_recording_without_a_detection_still_has_its_row(options, tmp_path):
    path = write_thirds(tmp_path / "a.wav", 0.1, 0.1, 0.125)
    scan = scan_file(ScanJob(path, options, 1))
    (summary,) = scan.summary.to_pylist()
    assert len(scan.detections) == 0
    assert summary["n_windows"] == 1
    assert summary["max_confidence"] == 0.125


@pytest.mark.parametrize(
    ("content", "error"), [(b"", "empty"), (b"<html>", "not_audio"), (None, "missing")]
)
def test_file_that_cannot_be_read_is_a_row_with_a_reason(options, tmp_path, content, error):
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    scan = scan_file(ScanJob(path, options, 1))
    (summary,) = scan.summary.to_pylist()
    assert summary["error"] == error
    assert summary["detail"]
    assert scan.duration_s is None
    assert len(scan.detections) == 0


def test_pipe_is_no_recording_and_does_not_block(options, tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (summary,) = scan_file(ScanJob(tmp_path / "pipe.wav", options, 1)).summary.to_pylist()
    assert summary["error"] == "missing"


def test_name_too_long_for_the_system_is_a_row(options, tmp_path):
    (summary,) = scan_file(ScanJob(tmp_path / ("a" * 300), options, 1)).summary.to_pylist()
    assert summary["error"] == "unreadable"


def test_all_files_of_folders_are_listed_once(tmp_path):
    for name in ("b/2.wav", "b/1.txt", "b/deep/.hidden", "a.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b/loop").symlink_to(tmp_path / "b")
    named = [tmp_path / "gone.wav", tmp_path / "b/2.wav", tmp_path / "b", tmp_path / "a.wav"]
    names = [path.relative_to(tmp_path).as_posix() for path in list_files(named)]
    assert names == ["gone.wav", "b/2.wav", "b/1.txt", "b/deep/.hidden", "a.wav"]


@pytest.mark.parametrize("n_workers", [0, 2])
def test_scan_writes_a_row_for_every_file_in_their_order(options, tmp_path, n_workers):
    paths = [write_thirds(tmp_path / f"{index}.wav", index / 10) for index in range(9, 0, -1)]
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    paths.insert(4, tmp_path / "broken.wav")
    output = tmp_path / "out" / "birds.csv"
    totals = scan_recordings(paths, options, output, n_workers)
    files = pd.read_csv(tmp_path / "out" / "birds.files.csv")
    detections = pd.read_csv(output)
    assert files["recording"].tolist() == [str(path) for path in paths]
    assert files["error"].notna().tolist() == [path.name == "broken.wav" for path in paths]
    assert [path[-5] for path in detections["recording"]] == ["9", "8", "7", "6", "5", "4", "3"]
    assert (totals.n_files, totals.n_read, totals.n_no_sound, totals.n_failed) == (10, 9, 0, 1)
    assert totals.sound_s == pytest.approx(3.0)


@pytest.mark.slow
def test_file_that_kills_its_process_costs_only_its_own_row(options, tmp_path, monkeypatch):
    monkeypatch.setattr(scanning, "scan_file", die_or_scan)
    paths = [write_thirds(tmp_path / name, 0.5) for name in ("a.wav", "deadly.wav", "z.wav")]
    totals = scan_recordings(paths, options, tmp_path / "birds.csv", 1)
    files = pd.read_csv(tmp_path / "birds.files.csv")
    assert files["error"].fillna("").tolist() == ["", "crash", ""]
    assert totals.n_read == 2


def test_wrong_options_fail_before_any_file_is_read(options, tmp_path):
    output = tmp_path / "birds.csv"
    too_far = ScanOptions(options.model_dir, 0.25, step_s=2.0)
    with pytest.raises(ValueError, match=r"step of 2\.0 s"):
        scan_recordings([tmp_path / "a.wav"], too_far, output)
    with pytest.raises(ValueError, match="threshold of nan, expected 0 to 1"):
        scan_recordings([], ScanOptions(options.model_dir, float("nan"), None), output)
    with pytest.raises(ExportError):
        scan_recordings([], ScanOptions(tmp_path / "none", 0.3, None), output)
    assert not output.exists()


def test_failed_scan_names_the_file(tmp_path):
    assert failed(tmp_path / "a", "crash", "died").summary.to_pylist()[0]["recording"] == str(
        tmp_path / "a"
    )
