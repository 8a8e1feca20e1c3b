"""Suspicion: each ground weighs what is documented, and the table is in order."""

import numpy as np
import pandas as pd
import pytest

from bclef import suspicion
from bclef.clips import CLIPS
from bclef.fingerprints import FRAME
from bclef.recordings import RECORDINGS
from bclef.suspicion import PART_NAMES, read_suspects
from bclef.tables import write_table
from bclef.windowscores import window_scores_schema
from tests.rows import rows_of


def recording(recording_id, **facts):
    defaults = {
        "recording_id": recording_id, "source": "demo", "role": "focal", "label": "gretit1",
        "secondary_labels": [], "recordist": "A. Person", "recorded_on": "2024-05-01",
        "attribution": "A. Person", "url": f"https://x.org/{recording_id}", "duration_s": 10.0,
        "annotated": False,
    }  # fmt: skip
    return defaults | facts


def words(n_heard, n_silent):
    frames = np.zeros(n_heard + n_silent, FRAME)
    frames["word"][:n_heard] = 5
    return frames.tobytes()


def clip(recording_id, **facts):
    defaults = {
        "recording_id": recording_id, "path": f"clips/{recording_id}.ogg", "duration_s": 10.0,
        "fingerprint": words(10, 0), "rms_dbfs": -20.0, "clipped_share": 0.0, "flatness": 0.1,
        "source_sample_rate_hz": 44_100,
    }  # fmt: skip
    return defaults | facts


class Data:
    """The folder of a run with some recordings."""

    def __init__(self, folder):
        self.folder = folder

    def suspects(self, recordings, clips=None, gone=(), n_most=20):
        write_table(rows_of(RECORDINGS, recordings), self.folder / "recordings.parquet", RECORDINGS)
        if clips is not None:
            write_table(rows_of(CLIPS, clips), self.folder / "clips.parquet", CLIPS)
        found = read_suspects(self.folder, gone, n_most)
        self.common = found.common
        return found.rows.set_index("recording_id")

    def score(self, fold, rows):
        labels = ["blutit", "coatit2", "gretit1"]
        columns = ["recording_id", "start_s", "end_s", *labels]
        frame = pd.DataFrame(rows, columns=columns)
        frame = frame.astype({"recording_id": "string"} | dict.fromkeys(labels, "float32"))
        write_table(frame, self.folder / f"oof/{fold}.parquet", window_scores_schema(labels))


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path)


def test_sound_recordings_are_not_suspicious(data):
    assert len(data.suspects([recording("a")])) == 0
    assert len(data.suspects([recording("a")], [clip("a")])) == 0


GROUNDS = {
    "stated_length": ({"duration_s": 40.0}, {}, 0.75, "listed as 40.0 s, decoded to 10.0 s"),
    "silent": ({}, {"rms_dbfs": -65.0}, 0.5, "nearly silent, -65 dBFS"),
    "clipped": ({}, {"clipped_share": 0.05}, 0.5, "5.00% of the samples clipped"),
    "steady": ({}, {"flatness": 0.53}, 0.5, "steady like noise, flatness 0.53"),
    "short": ({"duration_s": 0.8}, {"duration_s": 0.8}, 0.8, "only 0.80 s long"),
    "empty": ({}, {"fingerprint": words(10, 90)}, 0.8, "10% holds sound"),
    "low_rate": (
        {}, {"source_sample_rate_hz": 8_000}, 1.0,
        "recorded at 8000 Hz, so cut above half of that",
    ),
    "no_recordist": ({"recordist": None}, {}, 0.25, "no recordist"),
    "no_date": ({"recorded_on": None}, {}, 0.25, "no date"),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUNDS)
def test_each_ground_weighs_what_is_documented(data, name):
    of_recording, of_clip, score, words_said = GROUNDS[name]
    recordings = [recording("a", **of_recording), recording("b")]
    found = data.suspects(recordings, [clip("a", **of_clip), clip("b")])
    assert found["score"].tolist() == pytest.approx([score], abs=1e-4)
    assert found["reasons"].tolist() == [words_said]
    assert f"- {name}" in suspicion.__doc__ or f", {name}:" in suspicion.__doc__


def test_every_ground_is_tested_here():
    assert set(PART_NAMES) == set(GROUNDS) | {"label_conflict", "wrong_label"}


@pytest.mark.parametrize("role", ["soundscape", "noise"])
def test_only_focal_recordings_must_be_lively_long_and_credited(data, role):
    row = recording("a", role=role, label=None, recordist=None, recorded_on=None, duration_s=1.0)
    found = data.suspects([row], [clip("a", flatness=0.55, duration_s=1.0)])
    assert len(found) == 0


def test_a_copy_under_another_label_is_suspicious_and_one_under_the_same_is_not(data):
    recordings = [recording("a"), recording("b", label="blutit"), recording("c"), recording("d")]
    clips = [
        clip("a"),
        clip("b", path=None, duplicate_of="a", duplicate_kind="reencoded"),
        clip("c"),
        clip("d", path=None, duplicate_of="c", duplicate_kind="exact"),
    ]
    found = data.suspects(recordings, clips, gone=["b", "d"])
    assert found["score"].to_dict() == {"a": 1.0}
    assert found.loc["a", "reasons"] == "the same sound as b, which is labelled blutit"


def test_a_model_that_hears_another_species_is_told_by_best_windows(data):
    data.score(0, [("a", 0.0, 5.0, 0.1, 0.0, 0.2), ("a", 5.0, 10.0, 0.9, 0.1, 0.1)])
    data.score(1, [("b", 0.0, 5.0, 0.9, 0.3, 0.2), ("c", 0.0, 5.0, 0.1, 0.1, 0.9)])
    data.score(2, [])
    recordings = [recording("a"), recording("b", secondary_labels=["blutit"]), recording("c")]
    found = data.suspects(recordings)
    assert found["score"].to_dict() == pytest.approx({"a": 0.8, "b": 0.8}, abs=1e-6)
    said = "a model that had not heard it gives blutit 0.90, its own label 0.20"
    assert found.loc["a", "reasons"] == said


def test_recordings_without_a_class_or_a_score_have_no_rival(data):
    data.score(0, [("a", 0.0, 5.0, 0.9, 0.1, 0.1), ("b", 0.0, 5.0, 0.9, 0.1, 0.1)])
    recordings = [recording("a", label="raven1"), recording("b", label=None), recording("c")]
    assert len(data.suspects(recordings)) == 0


def test_scores_add_up_and_the_heaviest_reason_comes_first(data):
    row = recording("a", recordist=None, duration_s=20.0)
    clips = [clip("a", clipped_share=0.04), clip("b")]
    found = data.suspects([row, recording("b")], clips)
    assert found.loc["a", "score"] == pytest.approx(0.25 + 0.5 + 0.4, abs=1e-4)
    assert [reason.split()[0] for reason in found.loc["a", "reasons"].split("; ")] == [
        "listed",
        "4.00%",
        "no",
    ]


def test_most_suspicious_come_first_ties_by_id_and_the_rest_is_left_out(data):
    ids = [f"r{number:02d}" for number in range(30)]
    recordings = [recording(i, recordist=None) for i in reversed(ids)]
    recordings += [recording(f"s{number:02d}") for number in range(30)]
    recordings[7]["recorded_on"] = None
    found = data.suspects(recordings, n_most=20)
    worst = recordings[7]["recording_id"]
    assert found.index.tolist() == [worst, *[i for i in ids if i != worst][:19]]


def test_what_most_focal_recordings_lack_is_told_once_and_weighs_nothing(data):
    recordings = [
        recording("a", recorded_on=None), recording("b", recorded_on=None), recording("c"),
        recording("s", role="soundscape", label=None), recording("t", role="noise", label=None),
    ]  # fmt: skip
    assert len(data.suspects(recordings)) == 0
    assert data.common == (
        "2 of 3 focal recordings have no date, which is therefore no ground for suspicion.",
    )
    found = data.suspects([*recordings, recording("d")])  # of four it is half, not more
    assert found["reasons"].tolist() == ["no date"] * 2
    assert data.common == ()


def test_clipping_that_would_be_told_as_nought_is_not_told(data):
    assert len(data.suspects([recording("a")], [clip("a", clipped_share=0.00004)])) == 0
    found = data.suspects([recording("a")], [clip("a", clipped_share=0.0002)])
    assert found["reasons"].tolist() == ["0.02% of the samples clipped"]


def test_names_with_braces_are_only_text(data):
    recordings = [recording("a"), recording("{b}", label="{0.__class__}")]
    clips = [clip("a"), clip("{b}", path=None, duplicate_of="a", duplicate_kind="exact")]
    found = data.suspects(recordings, clips, gone=["{b}"])
    assert found.loc["a", "reasons"] == "the same sound as {b}, which is labelled {0.__class__}"
