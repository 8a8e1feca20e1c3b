"""Competition folders: every year's layout, the traps of their tables, and files that change."""

import logging
import pickle
import time
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bclef.config import ConfigError, read_yaml
from bclef.nomenclature import Taxonomy
from bclef.recipe import read_recipes, recipe_names
from bclef.recordings import RECORDINGS, Metadata, MetadataConfig, build_recordings
from bclef.sieve import REJECTED, LicencesConfig
from bclef.sources.competition import CompetitionConfig, CompetitionSource
from bclef.sources.competition_layouts import parse_list
from bclef.sources.protocol import (
    LISTED,
    LISTED_ANNOTATIONS,
    LISTED_REJECTED,
    FetchError,
    Listing,
    SourceError,
)
from bclef.tables import write_table
from bclef.taxonomy import Synonyms
from tests.competition_folders import (
    HEADERS,
    YEARS,
    focal,
    make_folder,
    window,
    write_audio,
    write_csv,
    write_focal,
    write_taxonomy,
    write_windows,
)

REPOSITORY = Path(__file__).parents[1]
S22 = "competition/c/soundscape/BC2026_Train_0039_S22_20211231_201500"


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("bclef.sources.kaggle.NOTEBOOK", tmp_path / "input")
    return tmp_path


def source(
    *folders: str, slugs: tuple[str, ...] = (), soundscapes: bool = True
) -> CompetitionSource:
    return CompetitionSource(
        CompetitionConfig(
            folders=folders or None, slugs=slugs or None, download=False, soundscapes=soundscapes
        )
    )


def listed(*folders: str) -> Listing:
    return source(*folders or ("c",)).list_recordings()


def by_id(listing: Listing, role: str = "focal") -> pd.DataFrame:
    rows = listing.recordings
    return rows[rows["role"] == role].set_index("recording_id")


def reasons(listing: Listing) -> dict[str, str]:
    return dict(zip(listing.rejected["recording_id"], listing.rejected["reason"], strict=True))


def boxes(listing: Listing) -> list[tuple[object, ...]]:
    return list(listing.annotations.itertuples(index=False, name=None))


# every year


@pytest.mark.parametrize("year", YEARS)
def test_each_year_is_listed_by_the_names_of_its_tables_and_columns(
    year: int, workspace: Path
) -> None:
    make_folder(workspace / f"birdclef-{year}", year)
    listing = listed(f"birdclef-{year}")
    rows = by_id(listing)
    row = rows.loc["XC254462"]
    assert (row["label"], row["scientific_name"]) == ("abythr1", "Avis abythr1")
    assert (row["common_name"], row["taxon_class"]) == ("Bird abythr1", "Aves")
    assert row["secondary_labels"] == ["rbsrob1", "comsan"]
    assert (row["latitude_deg"], row["longitude_deg"], row["rating"]) == (-16.5, -57.25, 4.5)
    assert row["recordist"] == "Jos\u00e9 \u00c1lvarez"
    assert row["attribution"] == (
        "Jos\u00e9 \u00c1lvarez, XC254462, "
        "Creative Commons Attribution-NonCommercial-ShareAlike 4.0"
    )
    assert (row["collection"], row["page_url"]) == ("XC", "https://xeno-canto.org/254462")
    assert (row["recorded_on"] == "2013-03-16") if year == 2021 else pd.isna(row["recorded_on"])
    assert rows.loc["XC109", "rating"] == 0
    assert pd.isna(rows.loc["XC109", "latitude_deg"])
    assert len(rows) == (4 if year >= 2025 else 2)
    assert reasons(listing) == (
        {"competition/birdclef-2026/mute1": "no_focal_audio"} if year == 2026 else {}
    )


@pytest.mark.parametrize("year", YEARS)
def test_listing_keeps_to_the_columns_and_types_of_the_protocol(year: int, workspace: Path) -> None:
    make_folder(workspace / "c", year)
    listing = listed()
    assert list(listing.recordings.columns) == list(LISTED)
    assert list(listing.annotations.columns) == list(LISTED_ANNOTATIONS)
    assert list(listing.rejected.columns) == list(LISTED_REJECTED)
    types = {"string": "string", "list[string]": "object", "int64": "Int64"}
    expected = {name: types.get(d.rstrip("?"), d.rstrip("?")) for name, d in LISTED.items()}
    assert {name: str(d) for name, d in listing.recordings.dtypes.items()} == expected


@pytest.mark.parametrize("year", [2025, 2026])
def test_labels_that_look_like_numbers_stay_text(year: int, workspace: Path) -> None:
    rows = [
        focal("1161364", "iNat65519", secondary_labels="['22973', '1e5']"),
        focal("1e5", "XC1", secondary_labels="[22973, 1e5]"),
        focal("0123", "XC2"),
    ]
    make_folder(workspace / "c", year, rows)
    recordings = by_id(listed())
    assert dict(recordings["label"]) == {"iNat65519": "1161364", "XC1": "1e5", "XC2": "0123"}
    assert list(recordings["secondary_labels"]) == [["22973", "1e5"], ["22973", "1e5"], []]


def test_taxonomy_fills_what_the_table_of_recordings_lacks(workspace: Path) -> None:
    rows = [focal("1161364", "iNat1", scientific_name="", common_name=""), focal("a", "XC1")]
    make_folder(workspace / "c", 2025, rows)
    recordings = by_id(listed())
    row = recordings.loc["iNat1"]
    assert (row["scientific_name"], row["common_name"]) == ("Avis 1161364", "Bird 1161364")
    assert dict(recordings["taxon_class"]) == {"iNat1": "Amphibia", "XC1": "Aves"}


def test_recordings_of_all_three_collections_keep_their_home(workspace: Path) -> None:
    make_folder(workspace / "c", 2025)
    rows = by_id(listed())
    assert dict(rows["collection"]) == {
        "XC254462": "XC", "XC109": "XC", "iNat65519": "iNat", "CSA36385": "CSA",
    }  # fmt: skip
    assert pd.isna(rows.loc["iNat65519", "rating"])
    assert rows.loc["CSA36385", "attribution"].startswith("unknown recordist, CSA36385, Creative")


def test_byte_order_mark_and_other_column_order_do_not_matter(workspace: Path) -> None:
    root = make_folder(workspace / "c", 2023)
    expected = listed().recordings
    header = ",".join(reversed(HEADERS[2023].split(",")))
    lines = [focal("abythr1", "XC254462", secondary_labels="['rbsrob1', 'comsan']"),
             focal("rbsrob1", "XC109", rating="0.0", latitude="", longitude="")]  # fmt: skip
    write_csv(root / "train_metadata.csv", header, lines, mark="\ufeff")
    pd.testing.assert_frame_equal(listed().recordings, expected)


# dirty tables


def test_bad_number_costs_the_number_and_is_told_once(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [focal("a", "XC1", rating="high"), focal("a", "XC2", rating="77", latitude="123")]
    make_folder(workspace / "c", 2024, rows)
    recordings = by_id(listed())
    assert recordings["rating"].isna().all()
    assert list(recordings["latitude_deg"].isna()) == [False, True]
    told = [text for text in caplog.messages if "column rating" in text]
    assert told == [
        "c: column rating: 2 values are unknown, as no numbers from 0 to 5, such as 'high'"
    ]


def test_rows_that_cannot_be_used_are_rejected_with_their_reason(workspace: Path) -> None:
    root = make_folder(workspace / "c", 2024, [focal("a", "XC1")])
    write_audio(workspace / "c/secret.ogg")
    write_audio(workspace / "secret.ogg")
    write_audio(root / "train_audio/b/XC9.ogg")
    write_audio(root / "train_audio/b/.XC10.ogg")
    rows = [
        focal("a", "XC1"),
        focal("a", "XC2"),
        focal("", "XC3"),
        focal("a", "XC4", filename="../secret.ogg"),
        focal("a", "XC5", filename="../../secret.ogg"),
        focal("a", "XC6", filename="/etc/hostname"),
        focal("a", "XC7", filename=""),
    ]
    write_focal(root, 2024, rows)
    listing = listed()
    assert list(by_id(listing).index) == ["XC1"]
    assert list(listing.rejected["reason"]) == [
        "missing", "no_label", "outside", "outside", "outside", "missing", "not_in_table",
    ]  # fmt: skip
    assert listing.rejected["recording_id"].iloc[0] == "XC2"
    assert listing.rejected["detail"].iloc[0] == (
        "c/train_metadata.csv row 2: train_audio/a/XC2.ogg"
    )
    assert listing.rejected["recording_id"].iloc[-1] == "XC9"


def test_2021_label_that_leaves_the_folder_is_outside(workspace: Path) -> None:
    root = make_folder(workspace / "c", 2021, [focal("a", "XC1")])
    write_audio(root / "XC2.ogg")
    write_focal(root, 2021, [focal("a", "XC1"), focal("..", "XC2"), focal("../..", "XC3")])
    assert list(listed().rejected["reason"]) == ["outside", "outside"]


def test_file_name_without_a_home_has_the_path_as_its_id(workspace: Path) -> None:
    rows = [focal("a", "XC1", filename="a/aves 50%.ogg"), focal("a", "XC2", filename="a/XC2b.ogg")]
    make_folder(workspace / "c", 2023, rows)
    listing = listed()
    assert list(by_id(listing).index) == [
        "competition/c/train_audio/a/aves 50%25.ogg",
        "competition/c/train_audio/a/XC2b.ogg",
    ]
    assert by_id(listing)["collection"].isna().all()


def test_number_of_a_home_is_one_however_it_is_written(workspace: Path) -> None:
    rows = [
        focal("a", "XC1", filename="a/XC0009.ogg"),
        focal("a", "XC2", filename="a/XC10.ogg"),
        focal("a", "XC3", filename="a/XC\u0661\u0662.ogg"),
    ]
    make_folder(workspace / "c", 2023, rows)
    assert list(by_id(listed()).index) == [
        "XC9", "XC10", "competition/c/train_audio/a/XC\u0661\u0662.ogg",
    ]  # fmt: skip


def test_label_nan_is_a_label_as_na_is(workspace: Path) -> None:
    rows = [focal("nan", "XC1"), focal("NA", "XC2"), focal("", "XC3", filename="nan/XC3.ogg")]
    make_folder(workspace / "c", 2025, rows)
    listing = listed()
    assert dict(by_id(listing)["label"]) == {"XC1": "nan", "XC2": "NA"}
    assert by_id(listing).loc["XC1", "common_name"] == "Bird nan"
    assert reasons(listing)["XC3"] == "no_label"


def test_sonotypes_of_one_vague_name_stay_classes_of_their_own(workspace: Path) -> None:
    names = {"scientific_name": "Unidentified cicada", "class_name": "Insecta"}
    rows = [focal("47158son01", "iNat1", **names), focal("47158son02", "iNat2", **names)]
    make_folder(workspace / "c", 2026, rows)
    assert list(build(listed()).classes["label"]) == ["47158son01", "47158son02"]


def test_table_finds_a_file_whatever_the_unicode_form_of_its_name(workspace: Path) -> None:
    root = make_folder(workspace / "c", 2023, [focal("a", "XC1")])
    name = "a/g\u00fcira.ogg"
    disk = root / "train_audio" / unicodedata.normalize("NFD", name)
    disk.write_bytes(write_audio(workspace / "x.ogg").read_bytes())
    write_focal(root, 2023, [focal("a", "XC1"), focal("a", "XC2", filename=name)])
    listing = listed()
    assert reasons(listing) == {}
    source("c").fetch(listing.recordings["url"].iloc[1], workspace / "copy", 10**6)
    assert (workspace / "copy").read_bytes() == disk.read_bytes()


def test_loop_of_links_ends_and_links_to_folders_are_followed(workspace: Path) -> None:
    root = make_folder(workspace / "c", 2023, [focal("a", "XC1")])
    (root / "train_audio/a/loop").symlink_to(root / "train_audio")
    (root / "train_audio/a/dead.ogg").symlink_to(workspace / "nowhere.ogg")
    write_audio(workspace / "elsewhere/XC2.ogg")
    (root / "train_audio/b").symlink_to(workspace / "elsewhere")
    write_focal(root, 2023, [focal("a", "XC1"), focal("b", "XC2")])
    listing = listed()
    assert list(by_id(listing).index) == ["XC1", "XC2"]
    assert reasons(listing) == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("primary_label,author\na,b\n", "no column 'filename'; found primary_label, author"),
        ("", "no column 'primary_label'; found an empty file"),
        ("primary_label,filename\na,b,c\n", "line 2 has 3 fields, expected 2"),
        ("primary_label,filename\na\n", "line 2 has 1 fields, expected 2"),
        ('primary_label,filename\na,"b\n', "UTF-8 CSV"),
        ("primary_label,filename,filename\na,b,c\n", "stands twice"),
        ("primary_label,filename\na,\udcff\n", "UTF-8 CSV"),
    ],
)
def test_table_that_is_broken_is_an_error_that_names_it(
    content: str, said: str, workspace: Path
) -> None:
    root = make_folder(workspace / "c", 2023)
    (root / "train_metadata.csv").write_text(content, "utf-8", "surrogateescape")
    with pytest.raises(SourceError, match=rf"train_metadata\.csv.*{said}"):
        listed()


def test_table_without_rows_leaves_all_audio_unlisted(workspace: Path) -> None:
    root = make_folder(workspace / "c", 2023)
    write_focal(root, 2023, [])
    listing = listed()
    assert listing.recordings.empty
    assert set(listing.rejected["reason"]) == {"not_in_table", "no_focal_audio"}


def test_same_recording_under_two_labels_becomes_one_with_both(workspace: Path) -> None:
    rows = [focal("a", "XC1", secondary_labels="['c']"), focal("b", "XC1"), focal("b", "XC2")]
    make_folder(workspace / "c", 2024, rows)
    metadata = build(listed())
    kept = metadata.recordings.set_index("recording_id")
    assert kept.loc["XC1", "label"] == "a"
    assert list(kept.loc["XC1", "secondary_labels"]) == ["c", "b"]
    assert list(metadata.rejected["reason"]) == ["listed_again"]


def test_same_recording_in_two_years_is_kept_once_with_the_labels_of_both(
    workspace: Path,
) -> None:
    make_folder(workspace / "birdclef-2023", 2023, [focal("a", "XC1", secondary_labels="['c']")])
    make_folder(workspace / "birdclef-2021", 2021, [focal("a", "XC1", secondary_labels="['d']")])
    for first, second in (("2023", "2021"), ("2021", "2023")):
        metadata = build(listed(f"birdclef-{first}", f"birdclef-{second}"))
        focal_rows = metadata.recordings[metadata.recordings["role"] == "focal"]
        assert list(focal_rows["recording_id"]) == ["XC1"]
        assert focal_rows["url"].iloc[0].startswith(f"competition:birdclef-{first}/")
        assert sorted(focal_rows["secondary_labels"].iloc[0]) == ["c", "d"]


def test_two_codes_of_one_species_in_2021_become_one_label(workspace: Path) -> None:
    rows = [focal("rocpig", "XC1"), focal("rocpig1", "XC2", scientific_name="Avis rocpig"),
            focal("rocpig", "XC3")]  # fmt: skip
    make_folder(workspace / "c", 2021, rows)
    metadata = build(listed())
    assert set(metadata.recordings["label"].dropna()) == {"rocpig"}


def build(
    listing: Listing, species: tuple[str, ...] | str | None = None, others: Listing | None = None
) -> Metadata:
    config = MetadataConfig(
        sources=("competition",), species=species, keep_others=True, min_recordings=1,
        max_recordings=None, cap_by="rating", min_rating=0.0, drop_same_event=True,
    )  # fmt: skip
    allowed = LicencesConfig(allow=None)
    listings = {"competition": listing} | ({"others": others} if others else {})
    return build_recordings(listings, config, allowed, Taxonomy(Synonyms({}), None))


@pytest.mark.parametrize("year", YEARS)
def test_the_first_competition_says_which_species_are_sought(
    year: int, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By its list of classes, or else its table; the other years' are for pretraining."""
    make_folder(workspace / "now", year)
    rows = [focal("abythr1", "XC1"), focal("other1", "XC2"), focal("other2", "XC3")]
    make_folder(workspace / "before", 2022, rows)
    classes = build(listed("now", "before"), "competition").classes.set_index("label")["target"]
    own = {"abythr1", "rbsrob1"} | ({"1161364"} if year >= 2025 else set())
    assert classes.to_dict() == dict.fromkeys(own, True) | {"other1": False, "other2": False}
    told = "1 of the 4 classes of competition have no recording that may be used"
    assert (f"{told} and are left out: mute1" in caplog.text) == (year == 2026)


def test_a_class_that_another_source_has_recordings_of_is_sought(workspace: Path) -> None:
    make_folder(workspace / "c", 2026)
    others = listed(str(make_folder(workspace / "d", 2022, [focal("mute1", "XC1")])))
    metadata = build(listed(), "competition", others)
    assert metadata.classes.set_index("label")["target"]["mute1"]


COMPETITION_RECIPES = [
    name
    for name in recipe_names(REPOSITORY)
    if read_recipes([name], REPOSITORY).get("competition.slugs")
]


@pytest.mark.parametrize("name", COMPETITION_RECIPES)
def test_a_recipe_seeks_the_species_of_its_year_and_keeps_others_to_pretrain_on(
    name: str, workspace: Path
) -> None:
    """With Kaggle's data and noise alone: nothing else has to be named."""
    tree = read_yaml(REPOSITORY / "params.yaml")
    for key, value in read_recipes([name], REPOSITORY).items():
        section, _, field = key.partition(".")
        if section in ("metadata", "competition") and "." not in field:
            tree[section][field] = value
    metadata = MetadataConfig.from_tree(tree["metadata"], name, "metadata")
    competitions = CompetitionConfig.from_tree(tree["competition"], name, "competition")
    for number, slug in enumerate(competitions.slugs or ()):
        labels = ["both1", f"only{number}"]
        rows = [
            focal(label, f"XC{1000 * number + 100 * place + copy}")
            for place, label in enumerate(labels)
            for copy in range(12)
        ]
        root = workspace / "data" / "store" / "competitions" / slug
        make_folder(root, int(slug.removeprefix("birdclef-")), rows)
    listing = CompetitionSource(competitions).list_recordings()
    made = build_recordings(
        {"competition": listing}, metadata, LicencesConfig(allow=None),
        Taxonomy(Synonyms({}), None),
    )  # fmt: skip
    target = made.classes.set_index("label")["target"]
    assert set(target[target].index) == {"both1", "only0"}
    others = {f"only{number}" for number in range(1, len(competitions.slugs or ()))}
    assert set(target[~target].index) == (others if metadata.keep_others else set())
    assert set(metadata.sources) <= {"competition", "folder"}


@pytest.mark.parametrize("species", ["others", "comptition"])
def test_a_source_without_a_class_list_sets_no_task(species: str, workspace: Path) -> None:
    make_folder(workspace / "c", 2023)
    listing = listed()
    others = Listing(listing.recordings, listing.annotations, listing.rejected)
    with pytest.raises(ConfigError) as raised:
        build(listing, species, others)
    assert str(raised.value) == (
        f"metadata.species: found {species!r}, expected null, a list of species, or a source of "
        "this run that has a class list: competition"
    )


def test_listing_passes_the_schemas_of_the_metadata_stage(workspace: Path) -> None:
    for year in YEARS:
        make_folder(workspace / f"birdclef-{year}", year)
    metadata = build(listed(*(f"birdclef-{year}" for year in YEARS)))
    write_table(metadata.recordings, workspace / "recordings.parquet", RECORDINGS)
    write_table(metadata.rejected, workspace / "rejected.parquet", REJECTED)
    assert (metadata.recordings["role"] == "soundscape").sum() == 7
    assert metadata.recordings["annotated"].sum() == 2


# classes


def test_class_list_that_differs_from_the_taxonomy_is_told(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_folder(workspace / "c", 2025, [focal("a", "XC1")])
    write_taxonomy(root, ["a", "extra1"])
    write_csv(root / "sample_submission.csv", "row_id,a,mute2", [])
    assert reasons(listed()) == {"competition/c/mute2": "no_focal_audio"}
    assert "differ in 2 classes, such as extra1, mute2" in caplog.text


def test_taxonomy_names_the_classes_where_there_is_no_submission(workspace: Path) -> None:
    root = make_folder(workspace / "c", 2026)
    (root / "sample_submission.csv").unlink()
    assert reasons(listed()) == {"competition/c/mute1": "no_focal_audio"}


def test_class_whose_only_file_is_missing_has_no_focal_audio(workspace: Path) -> None:
    root = make_folder(workspace / "c", 2023)
    (root / "train_audio/rbsrob1/XC109.ogg").unlink()
    assert reasons(listed()) == {"XC109": "missing", "competition/c/rbsrob1": "no_focal_audio"}


# soundscapes


def test_soundscapes_of_each_year_say_site_and_date(workspace: Path) -> None:
    for year in (2021, 2024, 2025, 2026):
        make_folder(workspace / f"birdclef-{year}", year)
    rows = by_id(listed(*(f"birdclef-{year}" for year in (2021, 2024, 2025, 2026))), "soundscape")
    said = {
        name.rpartition("/")[2]: (row["group_id"], row["recorded_on"], row["annotated"])
        for name, row in rows.iterrows()
    }
    assert {name: tuple(None if pd.isna(x) else x for x in row) for name, row in said.items()} == {
        "10534_SSW_20170429": ("SSW", "2017-04-29", False),
        "7019_COR_20190904": ("COR", "2019-09-04", True),
        "1446779": (None, None, False),
        "soundscape_12345678": (None, None, False),
        "H02_20230420_074000": ("H02", "2023-04-20", False),
        "BC2026_Train_0039_S22_20211231_201500": ("S22", "2021-12-31", True),
        "BC2026_Train_0040_S05_20220101_010000": ("S05", "2022-01-01", False),
    }
    assert rows["label"].isna().all()
    assert (rows["attribution"].str.len() > 0).all()


def test_2021_windows_end_at_their_second_and_nocall_is_no_annotation(workspace: Path) -> None:
    make_folder(workspace / "c", 2021)
    name = "competition/c/soundscape/7019_COR_20190904"
    assert boxes(listed()) == [(name, 5.0, "abythr1", 10.0), (name, 5.0, "rbsrob1", 10.0)]


def test_doubled_label_table_of_2026_comes_out_single(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_folder(workspace / "c", 2026)
    with caplog.at_level(logging.INFO):
        listing = listed()
    assert boxes(listing) == [
        (S22, 0.0, "1161364", 5.0),
        (S22, 0.0, "abythr1", 5.0),
        (S22, 5.0, "47158son16", 10.0),
        (S22, 55.0, "abythr1", 60.0),
    ]
    assert "train_soundscapes_labels.csv: 3 rows stand there again" in caplog.text
    assert "contradict" not in caplog.text


def test_rows_that_contradict_each_other_are_united_and_told(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = make_folder(workspace / "c", 2026)
    rows = [
        window("00:00:00", "00:00:05", "b;a"),
        window("00:00:00", "00:00:05", "a; b"),
        window("00:00:05", "00:00:10", "a"),
        window("00:00:05", "00:00:10", "a;c"),
        window("00:00:10", "00:00:15", "nocall"),
    ]
    write_windows(root, rows)
    assert [box[1:3] for box in boxes(listed())] == [(0, "a"), (0, "b"), (5, "a"), (5, "c")]
    assert "2 rows contradict others of their window, such as c/train_soundscapes" in caplog.text


def test_file_with_nocall_only_is_annotated_without_rows(workspace: Path) -> None:
    root = make_folder(workspace / "c", 2026)
    write_windows(root, [window("00:00:00", "00:00:05", "nocall")])
    listing = listed()
    assert listing.annotations.empty
    assert by_id(listing, "soundscape")["annotated"].to_dict()[S22]


def test_only_an_explicit_nocall_says_that_nobody_sings(workspace: Path) -> None:
    root = make_folder(workspace / "c", 2026)
    other = "BC2026_Train_0040_S05_20220101_010000"
    for useless in (
        [window("0", "5", "a")],
        [window("00:00:00", "00:00:05", "")],
        [window("00:00:00", "00:00:05", " ; ")],
        [window("soon", "00:00:05", "nocall")],
    ):
        write_windows(root, [*useless, window("00:00:00", "00:00:05", "nocall; a", other)])
        listing = listed()
        annotated = by_id(listing, "soundscape")["annotated"]
        assert annotated.to_dict() == {S22: False, S22.replace(S22.rpartition("/")[2], other): True}
        assert reasons(listing)[S22] == "bad_annotation"
        assert [box[2] for box in boxes(listing)] == ["a"]


def test_window_without_a_label_says_so(workspace: Path) -> None:
    root = make_folder(workspace / "c", 2026)
    write_windows(root, [window("00:00:00", "00:00:05", ""), window("00:00:05", "00:00:10", "a")])
    listing = listed()
    rejected = listing.rejected[listing.rejected["reason"] == "bad_annotation"]
    assert rejected["detail"].tolist() == [
        "c/train_soundscapes_labels.csv row 1: no label, not even nocall"
    ]
    assert by_id(listing, "soundscape").loc[S22, "annotated"]


def test_labels_of_no_file_and_of_no_time_are_rejected(workspace: Path) -> None:
    root = make_folder(workspace / "c", 2026)
    rows = [
        window("00:00:00", "00:00:05", "a", "BC2026_Train_0099_S01_20211231_201500"),
        window("00:00:05", "00:00:10", "a", "BC2026_Train_0099_S01_20211231_201500"),
        window("soon", "00:00:05", "a"),
        window("00:00:10", "00:00:05", "a"),
        window("01:00:05", "01:00:10.5", "a") | {"filename": S22.rpartition("/")[2]},
    ]
    write_windows(root, rows)
    listing = listed()
    assert boxes(listing) == [(S22, 3605.0, "a", 3610.5)]
    rejected = listing.rejected[listing.rejected["reason"] != "no_focal_audio"]
    assert list(rejected["reason"]) == ["missing", "bad_annotation", "bad_annotation"]
    assert (
        rejected["recording_id"]
        .iloc[0]
        .endswith("soundscape/BC2026_Train_0099_S01_20211231_201500")
    )
    assert rejected["detail"].iloc[0].startswith("2 windows of it in c/train_soundscapes")
    assert "row 3: times" in rejected["detail"].iloc[1]


def test_soundscapes_are_left_out_on_request(workspace: Path) -> None:
    make_folder(workspace / "c", 2026)
    listing = source("c", soundscapes=False).list_recordings()
    assert set(listing.recordings["role"]) == {"focal"}
    assert listing.annotations.empty


# folders


def test_folder_of_no_year_is_an_error_with_what_is_there_and_what_is_expected(
    workspace: Path,
) -> None:
    write_audio(workspace / "c/train_audio/a/XC1.ogg")
    (workspace / "c/birdclef-2023.zip").touch()
    with pytest.raises(SourceError) as error:
        listed()
    said = str(error.value)
    assert "found birdclef-2023.zip, train_audio/" in said
    assert "2022 to 2024: train_metadata.csv, train_audio/" in said
    assert "2021: train_metadata.csv, train_short_audio/" in said
    assert "2025 and 2026: train.csv, taxonomy.csv, train_audio/" in said
    assert "Unpack the archive first" in said


def test_folder_that_is_not_there_is_an_error(workspace: Path) -> None:
    with pytest.raises(SourceError, match="no readable folder"):
        listed("nowhere")


def test_section_that_names_nothing_is_an_error() -> None:
    with pytest.raises(SourceError, match="folders and slugs are both null"):
        source().list_recordings()


@pytest.mark.parametrize("slug", ["../etc", "--help", "Bird/Clef", ""])
def test_slug_that_is_no_name_is_refused_by_the_section(slug: str) -> None:
    tree = {"folders": None, "slugs": [slug], "download": True, "soundscapes": True}
    with pytest.raises(ConfigError, match="slugs"):
        CompetitionConfig.from_tree(tree, "params.yaml", "competition")


def test_two_folders_of_one_name_are_refused_and_one_named_twice_is_not(workspace: Path) -> None:
    make_folder(workspace / "2023/data", 2023)
    make_folder(workspace / "2024/data", 2024)
    with pytest.raises(SourceError, match="have one name"):
        listed("2023/data", "2024/data")
    assert len(by_id(listed("2023/data", str(workspace / "2023/data/")))) == 2


def test_source_pickles_and_urls_do_not_name_the_machine(workspace: Path) -> None:
    make_folder(workspace / "c", 2023)
    opened = source("c")
    assert pickle.loads(pickle.dumps(opened)) == opened  # noqa: S301  our own bytes
    assert (opened.name, opened.is_remote) == ("competition", False)
    assert not listed().recordings["url"].str.contains(str(workspace), regex=False).any()


# fetching


def test_every_listed_recording_of_every_year_can_be_fetched(workspace: Path) -> None:
    for year in YEARS:
        make_folder(workspace / f"birdclef {year} #1%", year)
    opened = source(*(f"birdclef {year} #1%" for year in YEARS))
    rows = opened.list_recordings().recordings
    assert len(rows) == 23
    for url in rows["url"]:
        assert url.isascii()
        assert url.endswith(".ogg")
        opened.fetch(url, workspace / "copy", 10**6)
        assert (workspace / "copy").read_bytes()[:4] == b"OggS"


def test_file_of_another_size_is_changed_and_has_another_url(workspace: Path) -> None:
    root = make_folder(workspace / "c", 2023, [focal("a", "XC1")])
    old = listed().recordings["url"].iloc[0]
    write_audio(root / "train_audio/a/XC1.ogg", n_samples=32_000)
    with pytest.raises(FetchError) as error:
        source("c").fetch(old, workspace / "copy", 10**6)
    assert error.value.reason == "changed"
    assert not (workspace / "copy").exists()
    assert listed().recordings["url"].iloc[0] != old


def test_fetch_says_gone_and_too_large(workspace: Path) -> None:
    root = make_folder(workspace / "c", 2023, [focal("a", "XC1")])
    url = listed().recordings["url"].iloc[0]
    with pytest.raises(FetchError) as error:
        source("c").fetch(url, workspace / "copy", 100)
    assert error.value.reason == "too_large"
    (root / "train_audio/a/XC1.ogg").unlink()
    with pytest.raises(FetchError) as error:
        source("c").fetch(url, workspace / "copy", 10**6)
    assert error.value.reason == "gone"


@pytest.mark.parametrize(
    "url",
    [
        "competition:c/6/..%2Fsecret.ogg",
        "competition:c/6/%2Fetc%2Fhostname",
        "competition:c/6/train_audio/%00",
        "competition:other/6/train_audio/a/XC1.ogg",
        "folder:focal/x",
    ],
)
def test_url_that_leaves_the_folder_or_names_another_is_unknown(url: str, workspace: Path) -> None:
    make_folder(workspace / "c", 2023, [focal("a", "XC1")])
    (workspace / "secret.ogg").write_text("secret")
    with pytest.raises(FetchError) as error:
        source("c").fetch(url, workspace / "copy", 10**6)
    assert error.value.reason == "unknown"


# lists written as text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("['rbsrob1']", ["rbsrob1"]),
        ("['call', 'song']", ["call", "song"]),
        ("['a', 'a']", ["a"]),
        ("[]", []),
        ("", []),
        ("nan", []),
        ("[nan]", []),
        ("['nan', 'NA']", ["nan", "NA"]),
        ("NaN", []),
        ("['']", []),
        ("rbsrob1", ["rbsrob1"]),
        ("rbsrob1 comsan", ["rbsrob1", "comsan"]),
        ("rbsrob1;comsan", ["rbsrob1", "comsan"]),
        ("[rbsrob1, comsan]", ["rbsrob1", "comsan"]),
        ("['rbsrob1' 'comsan']", ["rbsrob1", "comsan"]),
        ("[1161364, 1e5]", ["1161364", "1e5"]),
        ("1e5", ["1e5"]),
        ('["Setophaga auduboni", "O\'Brien"]', ["Setophaga auduboni", "O'Brien"]),
        ("['a\\d']", ["a\\d"]),
        ("__import__('os').getcwd()", ["__import__", "os", ".getcwd"]),
        ("[" * 5000, []),
    ],
)
def test_list_written_as_text_is_read(text: str, words: list[str]) -> None:
    assert parse_list(text) == words


LABELS = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: text.strip() != "")


@given(st.lists(LABELS))
def test_list_of_any_words_comes_back(words: list[str]) -> None:
    assert parse_list(repr(words)) == list(dict.fromkeys(word.strip() for word in words))


@given(st.text())
def test_no_text_breaks_the_list_parser(text: str) -> None:
    words = parse_list(text)
    assert len(set(words)) == len(words)
    assert all(word == word.strip() != "" for word in words)


# speed


@pytest.mark.slow
def test_table_of_many_rows_is_listed_in_seconds(workspace: Path) -> None:
    n_rows = 20_000
    rows = [focal(f"label{n % 200}", f"XC{n}") for n in range(n_rows)]
    root = workspace / "c"
    write_focal(root, 2023, rows)
    for label in range(200):
        (root / f"train_audio/label{label}").mkdir(parents=True)
    for row in rows:
        (root / "train_audio" / row["filename"]).touch()
    before_s = time.monotonic()
    assert len(listed().recordings) == n_rows
    assert time.monotonic() - before_s < 10
