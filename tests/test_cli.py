"""The command as a user runs it."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile
from click.testing import CliRunner

from bclef.archive import FILES
from bclef.cli import main
from bclef.clips import CLIPS
from bclef.recordings import RECORDINGS
from bclef.sieve import REJECTED
from bclef.tables import write_table
from bclef.windowscores import window_scores_schema
from tests.rows import rows_of


@pytest.fixture
def export(make_export, tmp_path):
    return make_export(tmp_path / "export")


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_imports_little():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "from bclef.cli import main; main(['--help'])"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "predict" in done.stdout
    assert "track" in done.stdout
    for heavy in ("numpy", "pandas", "pyarrow", "onnxruntime", "torch", "soundfile", "mlflow"):
        assert f" {heavy}\n" not in done.stderr, heavy


def test_prediction_ends_well_although_some_files_are_unreadable(export, tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    soundfile.write(folder / "loud.wav", np.full(30_000, 0.5), 30_000)
    soundfile.write(folder / "silent.wav", np.zeros(30_000), 30_000)
    (folder / "notes.txt").write_text("heard nothing")
    output = tmp_path / "birds.csv"
    done = run("predict", folder, "--model", export, "-o", output, "--workers", 0)
    assert done.exit_code == 0, done.output
    assert "2 of 3 files read" in done.output
    assert "times real time" in done.output
    table = tmp_path / "birds.files.csv"
    last = done.output.strip().splitlines()[-1]
    assert last == f"1 files not read: 1 no sound, 0 failed; reasons: {table}"
    files = pd.read_csv(tmp_path / "birds.files.csv", index_col="recording")
    assert files.loc[str(folder / "notes.txt"), "error"] == "not_audio"
    assert files.loc[str(folder / "silent.wav"), "max_confidence"] == 0
    assert pd.read_csv(output)["recording"].unique().tolist() == [str(folder / "loud.wav")]


def test_threshold_and_step_are_obeyed(export, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.repeat([0.2, 0.4, 0.6], 10_000), 30_000)
    output = tmp_path / "birds.parquet"
    options = ["-o", output, "--threshold", 0.5, "--step-s", 0.25, "--workers", 0]
    done = run("predict", tmp_path / "a.wav", "--model", export, *options)
    assert done.exit_code == 0, done.output
    detections = pd.read_parquet(output)
    assert detections["start_s"].tolist() == [0.0]
    assert detections["label"].tolist() == ["last"]


def test_files_that_are_no_sound_are_counted_apart_from_those_that_failed(export, tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    contents = {"a": b"", "b": b"text", "c": b"\0\0\0\x20ftypM4A ", "d": b"RIFF", "e": b"fLaC"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    output = tmp_path / "birds.csv"
    done = run("predict", folder, "--model", export, "-o", output, "--workers", 0)
    assert done.exit_code == 1
    assert "none of 5 files could be read: 3 no sound, 2 failed" in done.output


def test_no_readable_file_is_a_failure_with_its_table(export, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"")
    output = tmp_path / "birds.csv"
    done = run("predict", tmp_path / "a.wav", "--model", export, "-o", output, "--workers", 0)
    assert done.exit_code == 1
    assert "none of 1 files could be read" in done.output
    assert "birds.files.csv" in done.output
    assert pd.read_csv(tmp_path / "birds.files.csv")["error"].tolist() == ["empty"]


def test_missing_model_is_a_failure_that_says_what_to_do(tmp_path):
    done = run("predict", tmp_path, "--model", tmp_path / "none", "-o", tmp_path / "birds.csv")
    assert done.exit_code == 1
    (tmp_path / "a.wav").touch()
    done = run("predict", tmp_path, "--model", tmp_path / "none", "-o", tmp_path / "birds.csv")
    assert done.exit_code == 1
    assert "no such folder; expected an export" in done.output
    assert not (tmp_path / "birds.csv").exists()


def test_empty_folder_is_a_failure(export, tmp_path):
    (tmp_path / "empty").mkdir()
    done = run("predict", tmp_path / "empty", "--model", export, "-o", tmp_path / "birds.csv")
    assert done.exit_code == 1
    assert "no file in the folders named" in done.output


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-o", "birds.xlsx"], "found suffix '.xlsx'"),
        (["-o", "birds.csv", "--step-s", "3"], "found a step of 3.0 s"),
        (["-o", "birds.csv", "--step-s", "inf"], "found a step of inf s, expected more than 0"),
        (["-o", "birds.csv", "--step-s", "nan"], "found a step of nan s, expected more than 0"),
        (["-o", "birds.csv", "--threshold", "2"], "2.0 is not in the range"),
        (["-o", "birds.csv", "--threshold", "nan"], "a threshold of nan, expected 0 to 1"),
        (["-o", "birds.csv", ""], "found an empty name, expected that of a file or folder"),
        (["-o", ""], "found an empty name"),
    ],
)
def test_wrong_option_is_told_before_the_work(export, tmp_path, monkeypatch, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.wav").touch()
    done = run("predict", "a.wav", "--model", export, *options)
    assert done.exit_code == 2
    assert said in done.output


@pytest.mark.parametrize("options", [[], ["--step-s", "hunter2"]])
def test_no_message_tells_a_secret(export, tmp_path, monkeypatch, options):
    pytest.importorskip("distributed")
    monkeypatch.setenv("BCLEF_DASK_ADDRESS", "tcp://u:hunter2@127.0.0.1:1")
    for name in "ab":
        (tmp_path / name).touch()
    places = [tmp_path / "a", tmp_path / "b", "--model", export, "-o", tmp_path / "birds.csv"]
    done = run("predict", *places, *options)
    assert done.exit_code == (2 if options else 1)
    assert "[redacted]" in done.output
    assert "hunter2" not in done.output


def test_module_is_a_command_too():
    done = subprocess.run(
        [sys.executable, "-m", "bclef.cli", "predict", "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "RECORDINGS" in done.stdout


STRANGER = "c\x1b[2J\n\u202e"


@pytest.fixture
def listed(tmp_path):
    """A workspace in which the metadata stage has run, with a hostile name."""
    rows = [
        {
            "recording_id": recording_id, "source": source, "role": "focal", "label": "gretit1",
            "secondary_labels": [], "recordist": None, "attribution": "x", "url": "u",
            "recorded_on": "2024-05-01" if source == "demo" else None, "annotated": False,
        }
        for recording_id, source in (("a", "demo"), ("b", "demo"), (STRANGER, "folder"))
    ]  # fmt: skip
    taken = [
        {
            "recording_id": name, "source": source, "stage": "metadata", "reason": reason,
            "detail": "x, y",
        }
        for name, source, reason in (
            ("z", "demo", "licence"), ("y", "web", "licence"), ("a", "folder", "listed_twice"),
        )
    ]  # fmt: skip
    data = tmp_path / "data"
    write_table(rows_of(RECORDINGS, rows), data / "recordings.parquet", RECORDINGS)
    write_table(rows_of(REJECTED, taken), data / "rejected.parquet", REJECTED)
    return tmp_path


def test_data_is_shown_after_the_first_stage_and_says_what_has_not_run(listed):
    done = run("data", "--workspace", listed)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[:5] == [
        "all  demo  folder  web  stage     reason",
        "  6     3       2    1  listed",
        "  2     1       -    1  metadata  licence",
        "  1     -       1    -  metadata  listed_twice",
        "  3     2       1    -  kept",
    ]
    assert "Stage fetch has not run here yet." in lines
    assert "Stage resample has not run here yet." in lines
    assert "No fold is trained yet: wrong labels are not looked for." in lines
    said = "3 of 3 focal recordings have no recordist, which is therefore no ground for suspicion."
    assert said in lines
    assert lines[-1].split() == ["0.25", "c\\x1b[2J\\n\\u202e", "folder", "gretit1", "no", "date"]


def test_data_of_strangers_moves_no_cursor(listed):
    output = run("data", "--workspace", listed).output
    assert "c\\x1b[2J\\n\\u202e" in output
    assert all(char == "\n" or char.isprintable() for char in output)


def test_data_counts_what_later_stages_took_out(listed):
    files = [
        {"recording_id": "a", "path": "raw/a"},
        {"recording_id": "b", "error": "gone", "detail": "HTTP 404"},
        {"recording_id": STRANGER, "path": "raw/c"},
    ]
    clips = [
        {"recording_id": "a", "error": "silent", "detail": "RMS level -99.0 dBFS"},
        {"recording_id": "b", "error": "gone", "detail": "HTTP 404"},
        {"recording_id": STRANGER, "path": "clips/c"},
    ]
    write_table(rows_of(FILES, files), listed / "data/files.parquet", FILES)
    write_table(rows_of(CLIPS, clips), listed / "data/clips.parquet", CLIPS)
    output = listed / "all.csv"
    done = run("data", "--workspace", listed, "-o", output)
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[4:7] == [
        "  1     1       -    -  fetch     gone",
        "  1     1       -    -  resample  silent",
        "  1     -       1    -  kept",
    ]
    assert "has not run" not in done.output
    table = pd.read_csv(output)
    assert table["reason"].tolist() == ["listed_twice", "licence", "licence", "gone", "silent"]
    assert table.columns.tolist() == ["recording_id", "source", "stage", "reason", "detail"]


def test_data_of_an_earlier_run_is_told_as_such(listed):
    of_old = [{"recording_id": "old", "error": "gone", "detail": "HTTP 404"}]
    write_table(rows_of(FILES, of_old), listed / "data/files.parquet", FILES)
    schema = window_scores_schema(["gretit1"])
    scores = pd.DataFrame({"recording_id": ["old"], "start_s": [0.0], "end_s": [5.0]})
    scores = scores.astype({"recording_id": "string"}).assign(gretit1=np.float32([0.1]))
    write_table(scores, listed / "data/oof/0.parquet", schema)
    lines = run("data", "--workspace", listed).output.splitlines()
    assert lines[4] == "  3     2       1    -  kept"
    assert "Stage fetch has not run since stage metadata did." in lines
    assert "Stage resample has not run here yet." in lines
    assert "No fold is trained on these recordings: wrong labels are not looked for." in lines
    write_table(scores.iloc[:0], listed / "data/oof/0.parquet", schema)
    said = "No model has held a recording out (finetune.hold_out, folds): wrong labels are not "
    assert said + "looked for." in run("data", "--workspace", listed).output.splitlines()


def test_data_without_any_table_says_what_to_run(tmp_path):
    done = run("data", "--workspace", tmp_path)
    assert done.exit_code == 1
    assert "no such table; run the stage that writes it" in done.output
    assert done.output.startswith("Error: ")


def test_tracking_outside_a_workspace_says_so(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run("track")
    assert done.exit_code == 1
    assert "Traceback" not in done.output
    assert done.output.startswith("Error: ")


@pytest.mark.slow
def test_every_odd_and_annotated_file_gets_a_row(real_audio, export, tmp_path):
    folders = [real_audio / "odd", real_audio / "annotated"]
    output = tmp_path / "birds.csv"
    done = run("predict", *folders, "--model", export, "-o", output, "--threshold", 0.01)
    assert done.exit_code == 0, done.output
    expected = {str(path) for folder in folders for path in folder.rglob("*") if path.is_file()}
    files = pd.read_csv(tmp_path / "birds.files.csv")
    assert set(files["recording"]) == expected
    assert len(files) == len(expected) > 90
    assert (files["error"].isna() == files["n_windows"].notna()).all()
    assert files.loc[files["error"].notna(), "detail"].notna().all()
    assert files["error"].isna().sum() > 60
    assert "crash" not in set(files["error"])
    assert set(pd.read_csv(output)["recording"]) <= expected


def test_backbone_without_torch_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("bclef.cli.find_spec", lambda _: None)
    done = run("backbone", tmp_path / "model", "-o", tmp_path / "backbone")
    assert done.exit_code == 1
    assert "torch and timm and pydantic not installed; run `pip install '.[train]'`" in (
        done.output
    )


@pytest.mark.parametrize("kind", ["none", "empty", "file", "export"])
def test_backbone_of_what_is_no_trained_network_is_a_failure(tmp_path, kind):
    pytest.importorskip("torch")
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("notes")
    elif kind != "none":
        place.mkdir()
    if kind == "export":
        for name in ("model.json", "model.onnx"):
            (place / name).write_text("{}")
    done = run("backbone", place, "-o", tmp_path / "backbone")
    assert done.exit_code == 1
    assert done.output.startswith(
        f"Error: {place} is not the folder of a trained network; expected one such as "
    )
    assert not (tmp_path / "backbone").exists()


def test_backbone_of_a_damaged_model_is_a_failure(tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "model.json").write_text("{}")
    done = run("backbone", tmp_path, "-o", tmp_path / "backbone")
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: no model of this version in {tmp_path}")


def test_tracking_without_mlflow_says_what_to_install(monkeypatch):
    monkeypatch.setattr("bclef.cli.find_spec", lambda _: None)
    done = run("track")
    assert done.exit_code == 1
    assert "pip install '.[train]'" in done.output
