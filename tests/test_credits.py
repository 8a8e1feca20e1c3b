"""Credits: everybody whose recordings a model learnt from, nobody else, and nothing that runs."""

import pandas as pd
import pytest

from bclef.credits import (
    COLUMNS,
    CreditsError,
    credits_of,
    deed_url,
    licence_counts,
    read_credits,
    render_page,
    write_credits,
)


def table_of(*rows):
    """Credits of (id, species, recordist, licence, url)."""
    full = [
        (i, species, who, licence, f"{who}, {i}", url) for i, species, who, licence, url in rows
    ]
    return pd.DataFrame(full, columns=COLUMNS, dtype="string")


TABLE = table_of(
    ("XC3", "Parus major", "Eva", "CC-BY-4.0", "https://xeno-canto.org/3"),
    ("XC1", "Turdus merula", "Ana", "CC-BY-NC-SA-4.0", "https://xeno-canto.org/1"),
    ("XC2", "Parus major", "Ana", "CC-BY-4.0", "https://xeno-canto.org/2"),
    ("S1", "", "", "unknown", "folder:soundscape/1"),
    ("S2", "", "", "unknown", "folder:soundscape/2"),
    ("N1", "", "Bo", "CC0", "folder:noise/1"),
    ("XC9", "Turdus merula", "Cy", "CC0", "https://xeno-canto.org/9"),
)
INDEX = pd.DataFrame(
    {
        "recording_id": ["XC1", "XC2", "XC3", "S1", "S2", "N1"],
        "role": ["focal", "focal", "focal", "soundscape", "soundscape", "noise"],
        "annotated": [False, False, False, False, True, False],
    }
)


def test_a_teacher_is_credited_with_labelled_recordings_and_noise():
    used = credits_of(INDEX, TABLE, with_unlabelled=False)
    # XC9 was fetched, but is a copy or was of no use: it is not in the index.
    assert used["recording_id"].tolist() == ["N1", "XC2", "XC3", "XC1"]


def test_a_student_is_credited_with_soundscapes_too_but_not_with_test_material():
    used = credits_of(INDEX, TABLE, with_unlabelled=True)
    assert set(used["recording_id"]) == {"N1", "S1", "XC1", "XC2", "XC3"}


def test_a_recording_without_credit_is_refused():
    with pytest.raises(CreditsError, match=r"1 recordings .* such as XC2: dvc repro fetch"):
        credits_of(INDEX, TABLE[TABLE["recording_id"] != "XC2"], with_unlabelled=True)


def test_table_is_read_as_it_was_written(tmp_path):
    odd = table_of(("XC1", "Parus major", 'Jo "J", Né\n=1+1', "", "https://xeno-canto.org/1"))
    write_credits(odd, tmp_path / "a.csv", tmp_path / "a.html")
    pd.testing.assert_frame_equal(read_credits(tmp_path / "a.csv"), odd)


def test_no_table_and_another_table_are_refused(tmp_path):
    with pytest.raises(CreditsError, match=r"no\.csv: not a table of credits"):
        read_credits(tmp_path / "no.csv")
    (tmp_path / "other.csv").write_text("recording_id,url\nXC1,x\n")
    with pytest.raises(
        CreditsError, match="found columns recording_id,url, expected recording_id,"
    ):
        read_credits(tmp_path / "other.csv")


@pytest.mark.parametrize("end", ["\r", "\r\n", "\u2028", "\x85", "\x1e"])
def test_what_ends_a_line_elsewhere_ends_no_row(tmp_path, end):
    odd = table_of(("XC1", "Parus major", f"Jo{end}Ann", "CC0", f"https://xeno-canto.org/1{end}"))
    write_credits(odd, tmp_path / "a.csv", tmp_path / "a.html")
    pd.testing.assert_frame_equal(read_credits(tmp_path / "a.csv"), odd)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("XC1,Parus major,A\n", r"row 1 is \['XC1', 'Parus major', 'A'\], expected 6 fields"),
        ("XC1,a,b,c,d,e,f\n", "row 1 is .* expected 6 fields"),
        ("XC1,a,b,c,d,e\n,a,b,c,d,e\n", "row 2 is .* that begin with a recording_id"),
        ("XC1,Parus major,A\rB,CC0,x,y\n", "row 1 is|not a table of credits"),
        ('XC1,Parus major,"A', "not a table of credits"),
    ],
)
def test_broken_row_is_refused_rather_than_passed_without_its_licence(tmp_path, rows, message):
    (tmp_path / "a.csv").write_text(",".join(COLUMNS) + "\n" + rows, newline="")
    with pytest.raises(CreditsError, match=message):
        read_credits(tmp_path / "a.csv")


def test_empty_file_is_no_table_of_credits(tmp_path):
    (tmp_path / "a.csv").touch()
    with pytest.raises(CreditsError, match="not a table of credits"):
        read_credits(tmp_path / "a.csv")


def test_page_names_recordist_licence_and_address_of_every_recording():
    page = render_page(TABLE)
    for row in TABLE.itertuples():
        assert row.recording_id in page
        assert row.recordist in page
    assert '<a href="https://xeno-canto.org/1">XC1</a>' in page
    assert (
        '<a href="https://creativecommons.org/licenses/by-nc-sa/4.0/">CC-BY-NC-SA-4.0</a>' in page
    )
    assert "7 recordings of 4 named recordists" in page


def test_hostile_names_and_addresses_stay_text():
    page = render_page(
        table_of(
            ("<b>", "<script>alert(1)</script>", '"><img src=x>', "CC0", "javascript:alert(1)"),
            ("XC2", "Parus major", "Ana", "CC0", "https://[broken"),
        )
    )
    assert "<script" not in page
    assert "<img" not in page
    assert "<b>" not in page
    assert "javascript:" not in page
    assert "[broken" not in page


def test_licences_are_counted_by_name():
    counts = {"CC-BY-4.0": 2, "CC-BY-NC-SA-4.0": 1, "CC0": 2, "unknown": 2}
    assert licence_counts(TABLE) == counts


@pytest.mark.parametrize(
    ("licence", "url"),
    [
        ("CC0", "https://creativecommons.org/publicdomain/zero/1.0/"),
        ("CC-BY-3.0", "https://creativecommons.org/licenses/by/3.0/"),
        ("CC-BY-NC-ND-2.5", "https://creativecommons.org/licenses/by-nc-nd/2.5/"),
        ("CC-BY-NC-ND", None),
        ("unknown", None),
        ("", None),
    ],
)
def test_licence_with_a_version_can_be_read(licence, url):
    assert deed_url(licence) == url
