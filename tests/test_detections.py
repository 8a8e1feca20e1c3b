"""Tables of detections: every value comes back, whatever the file is called."""

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from bclef.detections import DETECTIONS, SCANNED, Scan, failed, scan_writer, scanned_path, shown

HOSTILE = [
    "plain.wav",
    "with, comma.wav",
    'with "quotes".wav',
    "with\nnewline.wav",
    "with\rreturn.wav",
    "=cmd|' /C calc'!A0.wav",
    " leading and trailing ",
    "Grauspötter µ 鳥.wav",
    "NA",
    "null",
    "semi;colon\ttab.wav",
    os.fsdecode(b"not utf-8 \xff\xfe.wav"),
]


def make_scan(name: str, n_detections: int = 2) -> Scan:
    detections = pa.table(
        {
            "recording": [name] * n_detections,
            "start_s": [0.5 * index for index in range(n_detections)],
            "end_s": [0.5 * index + 5 for index in range(n_detections)],
            "label": ["0123"] * n_detections,
            "scientific_name": ["Ficta, avis"] * n_detections,
            "confidence": [0.25] * n_detections,
        },
        schema=DETECTIONS,
    )
    row = {"recording": name, "n_windows": 3, "duration_s": 7.25, "n_detections": n_detections}
    return Scan(detections, pa.Table.from_pylist([{**row, "max_confidence": 0.25}], schema=SCANNED))


def read(path: Path) -> pd.DataFrame:
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    text = {"recording": str, "label": str}
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"duration_s": [""]})


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_names_of_any_kind_come_back_as_they_were(tmp_path, suffix):
    output = tmp_path / f"birds{suffix}"
    names = [shown(Path(name)) for name in HOSTILE]
    with scan_writer(output) as add:
        for name in names:
            add(make_scan(name))
    detections, files = read(output), read(scanned_path(output))
    assert detections["recording"].tolist() == [name for name in names for _ in range(2)]
    assert files["recording"].tolist() == names
    assert detections.columns.tolist() == DETECTIONS.names
    assert detections["label"].unique().tolist() == ["0123"]
    assert detections["confidence"].unique().tolist() == [0.25]
    assert detections["end_s"].tolist()[:2] == [5, 5.5]


def test_bytes_that_are_no_text_become_escapes():
    assert shown(Path(os.fsdecode(b"\xff.wav"))) == r"\xff.wav"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_unread_file_has_a_row_with_its_reason_and_no_numbers(tmp_path, suffix):
    output = tmp_path / f"birds{suffix}"
    with scan_writer(output) as add:
        add(failed(Path("a.wav"), "empty", "0 bytes"))
    row = read(scanned_path(output)).iloc[0]
    assert (row["recording"], row["error"], row["detail"]) == ("a.wav", "empty", "0 bytes")
    assert pd.isna(row["duration_s"])
    assert len(read(output)) == 0


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_without_a_row_still_have_their_columns(tmp_path, suffix):
    output = tmp_path / f"birds{suffix}"
    with scan_writer(output):
        pass
    assert read(output).columns.tolist() == DETECTIONS.names
    assert read(scanned_path(output)).columns.tolist() == SCANNED.names


def test_many_rows_are_written_in_few_pieces(tmp_path):
    output = tmp_path / "birds.parquet"
    with scan_writer(output) as add:
        for index in range(100):
            add(make_scan(f"{index}.wav", n_detections=1_000))
    parts = pa.parquet.ParquetFile(output)
    assert (parts.metadata.num_rows, parts.num_row_groups) == (100_000, 2)


def test_interrupted_writing_leaves_neither_table(tmp_path):
    def write_and_fail():
        with scan_writer(tmp_path / "birds.csv") as add:
            add(make_scan("a.wav"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_unknown_kind_of_table_is_refused_before_the_work(tmp_path):
    with (
        pytest.raises(ValueError, match=r"found suffix '\.xlsx'"),
        scan_writer(tmp_path / "a.xlsx"),
    ):
        pass
