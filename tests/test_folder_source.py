"""The user's own audio: hostile names, hostile tables, and files that change under our hands."""

import hashlib
import logging
import os
import pickle
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile

from bclef.config import ConfigError, Params
from bclef.sources import FetchError, Listing, SourceError, open_sources
from bclef.sources.files import SUFFIXES, plain_name
from bclef.sources.folder import FolderConfig, FolderSource
from bclef.sources.protocol import LISTED
from bclef.sources.sheets import split_names

REAL_AUDIO = Path(os.environ.get("BCLEF_REAL_AUDIO", "../shared/audio"))


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


def put(path: Path, content: str = "") -> Path:
    """Writes a file of any content, so that each has its own digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content or f"sound of {path.name}", "utf-8", "surrogateescape")
    return path


def source(**fields: str) -> FolderSource:
    return FolderSource(
        FolderConfig(**{name: fields.get(name) for name in FolderConfig.model_fields})
    )


def listed(**fields: str) -> Listing:
    return source(**fields).list_recordings()


def by_id(**fields: str) -> pd.DataFrame:
    return listed(**fields).recordings.set_index("recording_id")


def reasons(listing: Listing) -> list[tuple[str, str]]:
    return list(zip(listing.rejected["recording_id"], listing.rejected["reason"], strict=True))


# folders


def test_folder_of_a_species_is_label_and_scientific_name(workspace: Path) -> None:
    put(workspace / "a/Turdus_merula/one.wav")
    put(workspace / "a/gretit1/deep/er/two.MP3")
    put(workspace / "a/gretit1/notes.txt")
    recordings = by_id(focal="a")
    assert list(recordings.index) == [
        "folder/focal/Turdus_merula/one.wav",
        "folder/focal/gretit1/deep/er/two.MP3",
    ]
    assert list(recordings["label"]) == ["Turdus_merula", "gretit1"]
    assert recordings["scientific_name"].iloc[0] == "Turdus merula"
    assert recordings["scientific_name"].isna().iloc[1]
    assert recordings["attribution"].iloc[0].startswith("unknown recordist")
    assert recordings["licence"].isna().all()


def test_file_outside_species_folders_is_rejected_with_its_reason(workspace: Path) -> None:
    put(workspace / "a/loose.wav")
    put(workspace / "a/gretit1/one.wav")
    assert reasons(listed(focal="a")) == [("folder/focal/loose.wav", "no_label")]


def test_same_file_in_two_roles_has_two_ids(workspace: Path) -> None:
    put(workspace / "a/x/one.wav")
    recordings = by_id(focal="a", noise="a", soundscapes="a")
    assert list(recordings["role"]) == ["focal", "soundscape", "noise"]
    assert recordings["url"].is_unique
    assert list(recordings["label"].isna()) == [False, True, True]


def test_listing_has_every_column_and_pickles(workspace: Path) -> None:
    put(workspace / "a/x/one.wav")
    opened = source(focal="a")
    assert list(opened.list_recordings().recordings.columns) == list(LISTED)
    assert pickle.loads(pickle.dumps(opened)) == opened  # noqa: S301  our own bytes


def test_audio_that_cannot_be_decoded_is_listed_for_later_stages(workspace: Path) -> None:
    for suffix in (".m4a", ".webm", ".ogg"):
        put(workspace / f"a/x/one{suffix}")
    assert len(by_id(focal="a")) == 3


def test_every_format_that_soundfile_knows_by_its_suffix_is_listed() -> None:
    names = {f".{name.lower()}" for name in soundfile.available_formats()}
    no_everyday_suffix = {".avr", ".htk", ".ircam", ".mat4", ".mat5", ".mpc2k", ".nist", ".paf",
                          ".pvf", ".raw", ".sd2", ".sds", ".svx", ".voc", ".wavex", ".wve",
                          ".xi"}  # fmt: skip
    assert names - no_everyday_suffix <= SUFFIXES


def test_hidden_files_and_folders_are_passed_over(workspace: Path) -> None:
    put(workspace / "a/x/.hidden.wav")
    put(workspace / "a/x/._one.wav")
    put(workspace / "a/.trash/two.wav")
    put(workspace / "a/x/seen.wav")
    assert list(by_id(focal="a").index) == ["folder/focal/x/seen.wav"]


def test_loop_of_links_ends_and_links_to_folders_are_followed(workspace: Path) -> None:
    put(workspace / "a/x/one.wav")
    (workspace / "a/x/loop").symlink_to(workspace / "a")
    put(workspace / "elsewhere/two.wav")
    (workspace / "a/y").symlink_to(workspace / "elsewhere")
    assert list(by_id(focal="a").index) == ["folder/focal/x/one.wav", "folder/focal/y/two.wav"]


def test_link_to_nothing_is_rejected(workspace: Path) -> None:
    put(workspace / "a/x/one.wav")
    (workspace / "a/x/dead.wav").symlink_to(workspace / "nowhere.wav")
    assert reasons(listed(focal="a")) == [("folder/focal/x/dead.wav", "unreadable")]


def test_unreadable_folder_is_rejected_and_the_rest_listed(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(workspace / "a/x/one.wav")
    put(workspace / "a/locked/two.wav")
    iterdir = Path.iterdir

    def guarded(path: Path) -> Any:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", guarded)
    listing = listed(focal="a")
    assert list(listing.recordings["recording_id"]) == ["folder/focal/x/one.wav"]
    assert reasons(listing) == [("folder/focal/locked", "unreadable")]
    assert "Permission denied" in listing.rejected["detail"][0]


HOSTILE = [
    "new\nline.wav",
    "quote'\"s.wav",
    "-rf.wav",
    "a b  c.wav",
    "50%.wav",
    "50%25.wav",
    "#hash?query&x=1.wav",
    "back\\slash.wav",
    "dots..in...wav",
    unicodedata.normalize("NFC", "r\u00e9.wav"),
    unicodedata.normalize("NFD", "r\u00e9.wav"),
    "\u9e1f\u9cf4\U0001f426.wav",
    "\u202egnp.wav",
    "x" * 251 + ".wav",
    b"latin\xe9.wav".decode("utf-8", "surrogateescape"),
]


def test_hostile_names_are_listed_apart_and_fetched(workspace: Path, tmp_path: Path) -> None:
    for number, name in enumerate(HOSTILE):
        put(workspace / "a/x" / name, f"content {number}")
    opened = source(focal="a")
    recordings = opened.list_recordings().recordings
    assert len(recordings) == len(HOSTILE)
    ids = recordings["recording_id"]
    assert ids.str.normalize("NFC").str.strip().is_unique
    assert all(key.isprintable() and key.encode() for key in ids)
    contents = set()
    for url in recordings["url"]:
        assert url.isascii()
        assert url.endswith(".wav")
        opened.fetch(url, tmp_path / "copy", 10**9)
        contents.add((tmp_path / "copy").read_text())
    assert contents == {f"content {number}" for number in range(len(HOSTILE))}


def test_plain_names_never_coincide() -> None:
    names = [*HOSTILE, "new%0Aline.wav", "new line.wav", "r%C3%A9.wav"]
    assert len({plain_name(name) for name in names}) == len(names)


# what the section says


def test_nothing_at_a_path_is_said_with_the_place(workspace: Path) -> None:
    with pytest.raises(SourceError, match=r"'nowhere'.*nothing at .*nowhere"):
        listed(focal="nowhere")


def test_empty_folder_is_an_error(workspace: Path) -> None:
    put(workspace / "a/readme.txt")
    with pytest.raises(SourceError, match=r"no audio; expected files in .*\.wav"):
        listed(focal="a")


def test_all_null_is_an_error() -> None:
    with pytest.raises(SourceError, match="all null"):
        listed()


def test_annotations_without_soundscapes_are_an_error(workspace: Path) -> None:
    put(workspace / "a/x/one.wav")
    put(workspace / "n.csv", "path,start_s,end_s,label\n")
    with pytest.raises(SourceError, match=r"folder\.soundscapes is null"):
        listed(focal="a", annotations="n.csv")


def test_absolute_and_home_paths_are_taken(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(workspace / "a/x/one.wav")
    monkeypatch.setenv("HOME", str(workspace))
    assert list(by_id(focal="~/a").index) == list(by_id(focal=str(workspace / "a")).index)


def test_urls_do_not_name_the_machine(workspace: Path) -> None:
    put(workspace / "a/x/one.wav")
    assert str(workspace) not in by_id(focal="a")["url"].iloc[0]


# tables


def test_table_of_recordings_says_what_is_known(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(workspace / "t/s/one.wav")
    put(
        workspace / "t/list.csv",
        "filename,label,secondary_labels,background_species,author,license,fold,rating,latitude,"
        "mood,common\ns/one.wav,0123,b;c,Parus major|b,Ana,CC BY 4.0,2,4.5,-3.25,fine,Tit\n",
    )
    with caplog.at_level(logging.INFO):
        row = by_id(focal="t/list.csv").loc["folder/focal/s/one.wav"]
    assert row["label"] == "0123"
    assert row["secondary_labels"] == ["b", "c", "Parus major"]
    assert (row["recordist"], row["licence"], row["fold"]) == ("Ana", "CC BY 4.0", 2)
    assert (row["rating"], row["latitude_deg"], row["common_name"]) == (4.5, -3.25, "Tit")
    assert row["attribution"].startswith("Ana, CC BY 4.0")
    assert caplog.text.count("mood") == 1


def test_bad_rows_are_rejected_each_with_its_reason(workspace: Path) -> None:
    for name in ("good", "twice", "clash", "bad", "bare"):
        put(workspace / f"t/{name}.wav")
    put(workspace / "outside.wav")
    put(
        workspace / "t/list.csv",
        "path,label,rating\n"
        "good.wav,a,\ntwice.wav,a,\ntwice.wav,a,\nclash.wav,a,\nclash.wav,b,\n"
        "bad.wav,a,high\nbare.wav,,\nmissing.wav,a,\n../outside.wav,a,\n/etc/hostname,a,\n",
    )
    listing = listed(focal="t/list.csv")
    assert list(listing.recordings["recording_id"]) == [
        f"folder/focal/{name}.wav" for name in ("good", "twice", "clash")
    ]
    assert [reason for _, reason in reasons(listing)] == [
        "listed_twice", "label_clash", "bad_value", "no_label", "missing", "outside", "outside",
    ]  # fmt: skip
    detail = listing.rejected["detail"][2]
    assert "list.csv" in detail
    assert "line 7, column rating: found 'high', expected a number from 0 to 5" in detail


def test_path_too_long_for_the_system_is_a_missing_file(workspace: Path) -> None:
    put(workspace / "t/good.wav")
    put(workspace / "t/list.csv", f"path,label\n{'x' * 5000}.wav,a\ngood.wav,a\n")
    listing = listed(focal="t/list.csv")
    assert list(listing.recordings["recording_id"]) == ["folder/focal/good.wav"]
    assert [reason for _, reason in reasons(listing)] == ["missing"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("label\na\n", "no column 'path'; found label"),
        ("", "no column 'path'; found an empty file"),
        ("path,filename\na,b\n", "'path' stands twice"),
        ("path,label\n\udcff.wav,a\n", "UTF-8 CSV"),
    ],
)
def test_unusable_table_is_an_error_that_names_it(content: str, said: str, workspace: Path) -> None:
    put(workspace / "list.csv", content or "\n") if content else (workspace / "list.csv").touch()
    with pytest.raises(SourceError, match=rf"list\.csv.*{said}"):
        listed(focal="list.csv")


def test_table_finds_files_whatever_the_unicode_form_of_the_name(workspace: Path) -> None:
    put(workspace / "t" / unicodedata.normalize("NFD", "r\u00e9.wav"))
    put(workspace / "t/list.csv", unicodedata.normalize("NFC", "path,label\nr\u00e9.wav,a\n"))
    assert len(by_id(focal="t/list.csv")) == 1


def test_details_add_to_folders_and_override_what_the_folder_tells(workspace: Path) -> None:
    put(workspace / "d/a/gretit1/one.wav")
    put(workspace / "d/a/gretit1/two.wav")
    put(
        workspace / "d/info.csv",
        "path,scientific_name,recordist,group_id\na/gretit1/one.wav,Parus major,Bo,g1\n",
    )
    recordings = by_id(focal="d/a", details="d/info.csv")
    first, second = recordings.iloc[0], recordings.iloc[1]
    assert (first["label"], first["scientific_name"]) == ("gretit1", "Parus major")
    assert (first["recordist"], first["group_id"]) == ("Bo", "g1")
    assert pd.isna(second["recordist"])


def test_separators_of_names() -> None:
    assert split_names(" a; b|a |;") == ["a", "b"]


# annotations


def test_soundscape_is_annotated_when_the_table_names_it(workspace: Path) -> None:
    for name in ("sung", "silent", "unheard"):
        put(workspace / f"s/{name}.wav")
    put(
        workspace / "notes.csv",
        "path,start_s,end_s,label\ns/sung.wav,1.5,3,gretit1\ns/sung.wav,2,4,Turdus merula\n"
        "s/sung.wav,1.5,3,gretit1\ns/silent.wav,,,\n",
    )
    listing = listed(soundscapes="s", annotations="notes.csv")
    annotated = listing.recordings.set_index("recording_id")["annotated"]
    assert dict(annotated) == {
        "folder/soundscape/silent.wav": True,
        "folder/soundscape/sung.wav": True,
        "folder/soundscape/unheard.wav": False,
    }
    assert listing.annotations.to_numpy().tolist() == [
        ["folder/soundscape/sung.wav", 1.5, "gretit1", 3.0],
        ["folder/soundscape/sung.wav", 2.0, "Turdus merula", 4.0],
    ]
    assert listing.rejected.empty


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("s/one.wav,3,1,a", "found 3.0 to 1.0 s, expected start_s < end_s"),
        ("s/one.wav,,1,a", "found None to 1.0 s"),
        ("s/one.wav,x,1,a", "column start_s: found 'x', expected a number"),
        ("s/one.wav,nan,1,a", "column start_s: found 'nan'"),
        ("s/other.wav,0,1,a", "no soundscape"),
    ],
)
def test_bad_annotation_is_rejected_with_its_row(row: str, said: str, workspace: Path) -> None:
    put(workspace / "s/one.wav")
    put(workspace / "notes.csv", f"path,start_s,end_s,label\n{row}\ns/one.wav,0,1,good\n")
    listing = listed(soundscapes="s", annotations="notes.csv")
    assert list(listing.annotations["label"]) == ["good"]
    assert [reason for _, reason in reasons(listing)] == ["bad_annotation"]
    assert "notes.csv row ending at line 2" in listing.rejected["detail"][0]
    assert said in listing.rejected["detail"][0]


# fetching


def test_fetch_copies_the_bytes(workspace: Path, rng: np.random.Generator) -> None:
    data = rng.bytes(3_000_000)
    put(workspace / "a/x/one.wav").write_bytes(data)
    row = by_id(focal="a").iloc[0]
    assert row["source_sha256"] == hashlib.sha256(data).hexdigest()
    source(focal="a").fetch(row["url"], workspace / "copy", 10**9)
    assert (workspace / "copy").read_bytes() == data


def test_changed_file_is_another_url_and_the_old_one_is_refused(workspace: Path) -> None:
    path = put(workspace / "a/x/one.wav", "before")
    old = by_id(focal="a")["url"].iloc[0]
    path.write_text("after")
    with pytest.raises(FetchError) as error:
        source(focal="a").fetch(old, workspace / "copy", 10**9)
    assert error.value.reason == "changed"
    assert not (workspace / "copy").exists()
    assert by_id(focal="a")["url"].iloc[0] != old


def test_file_that_went_away_is_gone(workspace: Path) -> None:
    path = put(workspace / "a/x/one.wav")
    url = by_id(focal="a")["url"].iloc[0]
    path.unlink()
    with pytest.raises(FetchError) as error:
        source(focal="a").fetch(url, workspace / "copy", 10**9)
    assert error.value.reason == "gone"
    assert not (workspace / "copy").exists()


@pytest.mark.parametrize("path", ["..%2Fsecret.wav", "../secret.wav", "%2Fetc%2Fhostname"])
def test_url_that_leaves_the_folder_is_refused(path: str, workspace: Path) -> None:
    put(workspace / "a/x/one.wav")
    secret = put(workspace / "secret.wav")
    digest = hashlib.sha256(secret.read_bytes()).hexdigest()
    with pytest.raises(FetchError) as error:
        source(focal="a").fetch(f"folder:focal/{digest}/{path}", workspace / "copy", 10**9)
    assert error.value.reason == "unknown"


def test_url_of_a_role_that_params_no_longer_name_is_unknown(workspace: Path) -> None:
    put(workspace / "a/x/one.wav")
    url = by_id(focal="a")["url"].iloc[0]
    with pytest.raises(FetchError) as error:
        source(noise="a").fetch(url, workspace / "copy", 10**9)
    assert error.value.reason == "unknown"


# sources by name


def test_open_sources_keeps_the_order_and_refuses_unknown_names(workspace: Path) -> None:
    section = dict.fromkeys(FolderConfig.model_fields) | {"focal": "a"}
    params = Params("metadata", {"folder": section}, {"folder": "params.yaml"})
    opened = open_sources(["folder"], params, workspace)
    assert list(opened) == ["folder"]
    assert opened["folder"].name == "folder"
    assert not opened["folder"].is_remote
    with pytest.raises(
        ConfigError, match="no source is called 'xenocanto'; there are demo, folder, xeno"
    ):
        open_sources(["folder", "xenocanto"], params, workspace)


@pytest.mark.slow
def test_real_collection_is_listed_with_its_details(tmp_path: Path) -> None:
    if not (REAL_AUDIO / "index.csv").is_file():
        pytest.skip(f"no real audio at {REAL_AUDIO}; set BCLEF_REAL_AUDIO")
    root = REAL_AUDIO.resolve()
    opened = source(
        focal=str(root / "species"),
        noise=str(root / "noise"),
        soundscapes=str(root / "odd"),
        details=str(root / "index.csv"),
    )
    listing = opened.list_recordings()
    recordings = listing.recordings
    focal = recordings[recordings["role"] == "focal"]
    index = pd.read_csv(root / "index.csv")
    species = index[index["path"].str.startswith("species/")]
    assert len(focal) == len(species) == 240
    assert set(focal["scientific_name"]) == set(species["scientific_name"])
    assert focal["recordist"].notna().all()
    assert (focal["group_id"].str.match(r"g\d+")).all()
    assert set(focal["source_sha256"]) == set(species["sha256"])
    assert any(focal["secondary_labels"].map(len) > 0)
    assert recordings["recording_id"].is_unique
    opened.fetch(focal["url"].iloc[0], tmp_path / "copy", 10**9)
    assert soundfile.info(tmp_path / "copy").duration > 1
