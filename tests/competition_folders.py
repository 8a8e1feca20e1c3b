"""Folders as the BirdCLEF competitions of 2021 to 2026 have them, small, with tiny audio."""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

HEADERS = {
    2021: "primary_label,secondary_labels,type,latitude,longitude,scientific_name,common_name,"
    "author,date,filename,license,rating,time,url",
    2022: "primary_label,secondary_labels,type,latitude,longitude,scientific_name,common_name,"
    "author,license,rating,time,url,filename",
    2023: "primary_label,secondary_labels,type,latitude,longitude,scientific_name,common_name,"
    "author,license,rating,url,filename",
    2024: "primary_label,secondary_labels,type,latitude,longitude,scientific_name,common_name,"
    "author,license,rating,url,filename",
    2025: "primary_label,secondary_labels,type,filename,collection,rating,url,latitude,longitude,"
    "scientific_name,common_name,author,license",
    2026: "primary_label,secondary_labels,type,latitude,longitude,scientific_name,common_name,"
    "class_name,inat_taxon_id,author,license,rating,url,filename,collection",
}
TAXONOMY_HEADER = "primary_label,inat_taxon_id,scientific_name,common_name,class_name"
YEARS = tuple(HEADERS)

Row = dict[str, str]


def focal(label: str, recording_id: str, **changes: str) -> Row:
    """Returns a line of a table of focal recordings; columns that a year lacks are left out."""
    collection = recording_id.rstrip("0123456789")
    stated = {
        "primary_label": label,
        "secondary_labels": "[]",
        "type": "['song']",
        "latitude": "-16.5",
        "longitude": "-57.25",
        "scientific_name": f"Avis {label}",
        "common_name": f"Bird {label}",
        "class_name": "Aves",
        "author": "Jos\u00e9 \u00c1lvarez",
        "date": "2013-03-16",
        "license": "Creative Commons Attribution-NonCommercial-ShareAlike 4.0",
        "rating": "4.5",
        "url": f"https://xeno-canto.org/{recording_id.removeprefix(collection)}",
        "filename": f"{label}/{recording_id}.ogg",
        "collection": collection,
    }
    return stated | changes


def write_csv(path: Path, header: str, rows: Sequence[Row], mark: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = header.split(",")
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(mark)
        writer = csv.DictWriter(file, columns, restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_audio(path: Path, n_samples: int = 320) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = np.random.default_rng(len(path.name)).normal(0, 0.1, n_samples)
    soundfile.write(path, wave, 32_000, format="OGG", subtype="VORBIS")
    return path


def write_focal(root: Path, year: int, rows: Sequence[Row], mark: str = "") -> Path:
    """Writes the year's table of focal recordings."""
    if year == 2021:  # alone it leaves out the folder
        rows = [row | {"filename": row["filename"].rpartition("/")[2]} for row in rows]
    name = "train.csv" if year >= 2025 else "train_metadata.csv"
    return write_csv(root / name, HEADERS[year], rows, mark)


def make_folder(root: Path, year: int, rows: Sequence[Row] | None = None) -> Path:
    """Makes the folder of `year` at `root` and returns it."""
    rows = _rows(year) if rows is None else rows
    write_focal(root, year, rows)
    audio = root / ("train_short_audio" if year == 2021 else "train_audio")
    audio.mkdir(parents=True, exist_ok=True)
    for row in rows:
        write_audio(audio / row["filename"])
    labels = list(dict.fromkeys(row["primary_label"] for row in rows))
    _write_submission(root, year, labels)
    if year >= 2025:
        write_taxonomy(root, [*labels, "mute1"] if year == 2026 else labels)
    _write_soundscapes(root, year)
    return root


def write_taxonomy(root: Path, labels: Sequence[str]) -> None:
    rows = [
        {
            "primary_label": label,
            "inat_taxon_id": "7",
            "scientific_name": f"Avis {label}",
            "common_name": f"Bird {label}",
            "class_name": "Amphibia" if label.isdigit() else "Aves",
        }
        for label in labels
    ]
    write_csv(root / "taxonomy.csv", TAXONOMY_HEADER, rows)


def _rows(year: int) -> list[Row]:
    rows = [
        focal("abythr1", "XC254462", secondary_labels="['rbsrob1', 'comsan']"),
        focal("rbsrob1", "XC109", rating="0.0", latitude="", longitude=""),
    ]
    if year >= 2025:
        rows += [
            focal("1161364", "iNat65519", rating="", license="cc-by-nc"),
            focal("1161364", "CSA36385", rating="", author=""),
        ]
    return rows


def _write_submission(root: Path, year: int, labels: Sequence[str]) -> None:
    header = {2021: "row_id,birds", 2022: "row_id,target"}.get(year, "")
    extra = ["mute1"] if year == 2026 else []
    write_csv(
        root / "sample_submission.csv", header or ",".join(["row_id", *labels, *extra]), [], ""
    )


def _write_soundscapes(root: Path, year: int) -> None:
    names = {
        2021: [
            "train_soundscapes/7019_COR_20190904.ogg",
            "train_soundscapes/10534_SSW_20170429.ogg",
        ],
        2024: [
            "unlabeled_soundscapes/1446779.ogg",
            "unlabeled_soundscapes/soundscape_12345678.ogg",
        ],
        2025: ["train_soundscapes/H02_20230420_074000.ogg"],
        2026: [
            "train_soundscapes/BC2026_Train_0039_S22_20211231_201500.ogg",
            "train_soundscapes/BC2026_Train_0040_S05_20220101_010000.ogg",
        ],
    }.get(year, [])
    for name in names:
        write_audio(root / name)
    if year == 2021:
        rows = [
            _window_2021("7019", "COR", 5, "nocall"),
            _window_2021("7019", "COR", 10, "abythr1 rbsrob1"),
        ]
        header = "row_id,site,audio_id,seconds,birds"
        write_csv(root / "train_soundscape_labels.csv", header, rows)
    if year == 2026:
        write_windows(root, _windows_2026() * 2)


def write_windows(root: Path, rows: Sequence[Row]) -> None:
    """Writes the table of labelled windows of 2026."""
    header = "filename,start,end,primary_label"
    write_csv(root / "train_soundscapes_labels.csv", header, rows)


def window(
    begin: str, end: str, labels: str, name: str = "BC2026_Train_0039_S22_20211231_201500"
) -> Row:
    return {"filename": f"{name}.ogg", "start": begin, "end": end, "primary_label": labels}


def _windows_2026() -> list[Row]:
    return [
        window("00:00:00", "00:00:05", "abythr1;1161364"),
        window("00:00:05", "00:00:10", "47158son16"),
        window("00:00:55", "00:01:00", "abythr1"),
    ]


def _window_2021(audio_id: str, site: str, end_s: int, birds: str) -> Row:
    return {
        "row_id": f"{audio_id}_{site}_{end_s}",
        "site": site,
        "audio_id": audio_id,
        "seconds": str(end_s),
        "birds": birds,
    }
