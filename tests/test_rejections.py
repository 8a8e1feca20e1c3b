"""What was taken out, gathered from the tables that say so."""

import pytest

from bclef.archive import FILES
from bclef.clips import CLIPS
from bclef.recordings import RECORDINGS
from bclef.rejections import read_rejections
from bclef.sieve import REJECTED
from bclef.tables import TableError, write_table
from tests.rows import rows_of


def clip(recording_id, **facts):
    return {"recording_id": recording_id, **facts}


RECORDING_ROWS = [
    {
        "recording_id": name, "source": "demo", "role": "focal", "secondary_labels": [],
        "attribution": "x", "url": "u", "annotated": False,
    }
    for name in "bcde"
]  # fmt: skip
REJECTED_ROWS = [
    {
        "recording_id": "a",
        "source": "folder",
        "stage": "metadata",
        "reason": "licence",
        "detail": "unknown",
    },
    {
        "recording_id": "b",
        "source": "folder",
        "stage": "metadata",
        "reason": "listed_twice",
        "detail": "by demo",
    },
]
FILE_ROWS = [
    {"recording_id": "b", "path": "raw/b.mp3"},
    {"recording_id": "c", "error": "gone", "detail": "HTTP 404"},
    {"recording_id": "d", "path": "raw/d.mp3"},
    {"recording_id": "e", "path": "raw/e.mp3"},
]
CLIP_ROWS = [
    clip("b"),
    clip("c", error="gone", detail="HTTP 404"),
    clip("d", error="silent", detail="RMS level -93.0 dBFS"),
    clip("e", duplicate_of="b", duplicate_kind="reencoded"),
]


@pytest.fixture
def data(tmp_path):
    write_table(rows_of(RECORDINGS, RECORDING_ROWS), tmp_path / "recordings.parquet", RECORDINGS)
    write_table(rows_of(REJECTED, REJECTED_ROWS), tmp_path / "rejected.parquet", REJECTED)
    return tmp_path


def told(rejections):
    return list(rejections.rows.itertuples(index=False, name=None))


def test_rejections_of_the_metadata_stage_stand_alone(data):
    found = read_rejections(data)
    assert found.not_run == ("fetch", "resample")
    assert [row[:4] for row in told(found)] == [
        ("a", "folder", "metadata", "licence"),
        ("b", "folder", "metadata", "listed_twice"),
    ]


def test_every_part_is_told_once_with_its_source_and_stage(data):
    write_table(rows_of(FILES, FILE_ROWS), data / "files.parquet", FILES)
    write_table(rows_of(CLIPS, CLIP_ROWS), data / "clips.parquet", CLIPS)
    found = read_rejections(data)
    assert found.not_run == ()
    assert told(found)[2:] == [
        ("c", "demo", "fetch", "gone", "HTTP 404"),
        ("d", "demo", "resample", "silent", "RMS level -93.0 dBFS"),
        ("e", "demo", "features", "duplicate_reencoded", "the same sound as b, which is kept"),
    ]


def test_without_tables_nothing_is_rejected_but_recordings_must_be_there(data, tmp_path):
    (data / "rejected.parquet").unlink()
    assert read_rejections(data).not_run == ("metadata", "fetch", "resample")
    assert len(read_rejections(data).rows) == 0
    with pytest.raises(TableError, match="no such table"):
        read_rejections(tmp_path / "elsewhere")


def test_rows_of_an_earlier_run_do_not_count_and_stages_that_lack_recordings_are_named(data):
    of_old = [{"recording_id": "old", "error": "gone", "detail": "HTTP 404"}]
    write_table(rows_of(FILES, [*of_old, *FILE_ROWS]), data / "files.parquet", FILES)
    copy = clip("older", duplicate_of="b", duplicate_kind="exact")
    write_table(rows_of(CLIPS, [copy, *of_old, *CLIP_ROWS[:2]]), data / "clips.parquet", CLIPS)
    found = read_rejections(data)
    assert [row[:4] for row in told(found)[2:]] == [("c", "demo", "fetch", "gone")]
    assert (found.not_run, found.outdated) == ((), ("resample",))
    write_table(rows_of(FILES, of_old), data / "files.parquet", FILES)
    assert read_rejections(data).outdated == ("fetch", "resample")


@pytest.mark.parametrize("files", [None, [], [{"recording_id": "c", "path": "raw/c.mp3"}]])
def test_failure_of_fetch_is_told_as_such_whatever_table_of_files_there_is(data, files):
    if files is not None:
        write_table(rows_of(FILES, files), data / "files.parquet", FILES)
    write_table(rows_of(CLIPS, CLIP_ROWS), data / "clips.parquet", CLIPS)
    found = [row[:4] for row in told(read_rejections(data))[2:4]]
    assert found == [("c", "demo", "fetch", "gone"), ("d", "demo", "resample", "silent")]


def test_rejections_can_be_written_as_a_table_of_the_same_kind(data):
    write_table(rows_of(FILES, FILE_ROWS), data / "files.parquet", FILES)
    write_table(rows_of(CLIPS, CLIP_ROWS), data / "clips.parquet", CLIPS)
    write_table(read_rejections(data).rows, data / "all.parquet", REJECTED)


def test_broken_table_is_refused(data):
    (data / "clips.parquet").write_bytes(b"PAR1")
    with pytest.raises(TableError, match="clips"):
        read_rejections(data)
