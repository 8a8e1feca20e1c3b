"""The folders of the BirdCLEF competitions 2021 to 2026: what lies where, and their tables as text.

A year is known by the names of its tables and folders, a column by its name. Every field is read as
text: ids such as 1161364 and codes such as 1e5 are labels, never numbers.
"""

import ast
import csv
import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from bclef.sources.protocol import SourceError

SAMPLE = "sample_submission.csv"
TAXONOMY = "taxonomy.csv"
SOUNDSCAPE_FOLDERS = ("train_soundscapes", "unlabeled_soundscapes")
"""Where soundscapes of any year lie; those of the hidden test are none of them."""

_NO_VALUE = ("", "nan", "NaN")
_NO_CLASSES = ({"row_id", "birds"}, {"row_id", "target"})
"""Submissions of 2021 and 2022, which name no classes."""
_MOST_SHOWN = 12
"""Entries of a folder that an error message names."""


@dataclass(frozen=True)
class Layout:
    """What the folder of one or several years looks like."""

    years: str
    tables: tuple[str, ...]
    """Tables that have to be there, the one of focal recordings first."""
    audio: str
    """Folder of the focal recordings, one folder a label in it."""
    names_are_bare: bool
    """Whether column `filename` lacks the folder of the label."""
    taxon_class: str | None
    """The class of all its species where no table says one."""
    labels: str | None
    """Table that labels stretches of soundscapes; it need not be there."""
    label_columns: tuple[str, ...]
    """What it has to have."""
    soundscape_names: tuple[str, ...]
    """Patterns of soundscape names without suffix that hold `site` and `date`."""

    def __str__(self) -> str:
        return f"{self.years}: {', '.join(self.tables)}, {self.audio}/"


LAYOUTS = (
    Layout(
        years="2025 and 2026",
        tables=("train.csv", TAXONOMY),
        audio="train_audio",
        names_are_bare=False,
        taxon_class=None,
        labels="train_soundscapes_labels.csv",
        label_columns=("filename", "start", "end", "primary_label"),
        soundscape_names=(
            r"(?P<site>[A-Z]\d+)_(?P<date>\d{8})_\d{6}",
            r"BC\d{4}_[A-Za-z]+_\d+_(?P<site>S\d+)_(?P<date>\d{8})_\d{6}",
        ),
    ),
    Layout(
        years="2022 to 2024",
        tables=("train_metadata.csv",),
        audio="train_audio",
        names_are_bare=False,
        taxon_class="Aves",
        labels=None,
        label_columns=(),
        soundscape_names=(),
    ),
    Layout(
        years="2021",
        tables=("train_metadata.csv",),
        audio="train_short_audio",
        names_are_bare=True,
        taxon_class="Aves",
        labels="train_soundscape_labels.csv",
        label_columns=("site", "audio_id", "seconds", "birds"),
        soundscape_names=(r"\d+_(?P<site>[A-Z]{3})_(?P<date>\d{8})",),
    ),
)


@dataclass(frozen=True)
class Competition:
    """A competition's folder on this machine."""

    name: str
    """Its slug, or the name of its folder; part of ids and urls."""
    root: Path
    page_url: str | None
    """Where people see it, if that is known."""

    @property
    def layout(self) -> Layout:
        """Its layout.

        Raises:
            SourceError: it has none of those that are known.
        """
        return layout_of(self.root)


def find_layout(root: Path) -> Layout | None:
    """Returns the layout of the folder `root`; None where it has none that is known."""
    for layout in LAYOUTS:
        if (root / layout.audio).is_dir() and all(
            (root / name).is_file() for name in layout.tables
        ):
            return layout
    return None


def layout_of(root: Path) -> Layout:
    """Returns the layout of the folder `root`.

    Raises:
        SourceError: no such folder, or it has none of the layouts that are known.
    """
    if layout := find_layout(root):
        return layout
    try:
        found = sorted(f"{entry.name}{'/' * entry.is_dir()}" for entry in root.iterdir())
    except OSError as error:
        raise SourceError(f"competition: {root} is no readable folder: {error.strerror}") from error
    known = "; ".join(str(layout) for layout in LAYOUTS)
    shown = ", ".join(found[:_MOST_SHOWN]) + (", ..." if len(found) > _MOST_SHOWN else "")
    advice = ". Unpack the archive first" if any(name.endswith(".zip") for name in found) else ""
    raise SourceError(
        f"competition: {root} looks like no year's folder: found {shown or 'nothing'}; "
        f"expected one of {known}{advice}"
    )


def read_text(path: Path, required: tuple[str, ...]) -> pd.DataFrame:
    """Returns the CSV table at `path`, every field as text without white space around it.

    Args:
        path: UTF-8 with or without byte order mark, with a header.
        required: columns that have to be there.

    Raises:
        SourceError: not such a file, a row of another length, a column missing or twice.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            rows = []
            for row in reader:
                if row and len(row) != len(header):
                    raise SourceError(
                        f"{path}: line {reader.line_num} has {len(row)} fields, expected "
                        f"{len(header)}; a broken copy?"
                    )
                rows += [row] if row else []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: cannot be read as UTF-8 CSV: {error}") from error
    if missing := [name for name in required if name not in header]:
        raise SourceError(
            f"{path}: no column {missing[0]!r}; found {', '.join(header) or 'an empty file'}"
        )
    if len(set(header)) < len(header):
        raise SourceError(f"{path}: a column stands twice: {', '.join(header)}")
    return pd.DataFrame(rows, columns=header, dtype="str").apply(lambda texts: texts.str.strip())


def stated(table: pd.DataFrame, column: str) -> pd.Series:
    """Returns a column of `table` as text, null where it is empty; all null where it is absent."""
    if column not in table:
        return pd.Series(pd.NA, table.index, dtype="string")
    texts = table[column].astype("string")
    return texts.mask(texts.isin(_NO_VALUE))


def stated_label(table: pd.DataFrame) -> pd.Series:
    """Returns the labels of `table`, null where the field is empty: `nan` and `NA` are labels."""
    if "primary_label" not in table:
        return pd.Series(pd.NA, table.index, dtype="string")
    labels = table["primary_label"].astype("string")
    return labels.mask(labels == "")


def class_list(root: Path) -> list[str] | None:
    """Returns the classes that the header of sample_submission.csv names, or None."""
    path = root / SAMPLE
    if not path.is_file():
        return None
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path}: cannot be read as UTF-8 CSV: {error}") from error
    return None if set(header) in _NO_CLASSES else [name for name in header if name != "row_id"]


def parse_list(text: str) -> list[str]:
    """Returns the words of a list that was written as text, each once.

    Quoted words may hold anything; bare words and numbers stay as they are written, but for `nan`.

    >>> parse_list("['rbsrob1', 'comsan']"), parse_list("[1161364, 1e5]"), parse_list("")
    (['rbsrob1', 'comsan'], ['1161364', '1e5'], [])
    """
    if text.strip() in _NO_VALUE:
        return []
    words = _quoted(text)
    if words is None:
        bare = re.split(r"[,;|\s]+", text.translate(_BARE))
        words = [word for word in bare if word not in _NO_VALUE]
    return list(dict.fromkeys(word.strip() for word in words if word.strip()))


_BARE = str.maketrans(dict.fromkeys("[](){}'\"", " "))


def _quoted(text: str) -> list[str] | None:
    """Returns the words of a list of quoted words; None where `text` is something else."""
    # Two quoted words without a comma are what numpy writes; Python would glue them together.
    if not text.lstrip().startswith(("[", "(", "{")) or re.search(r"['\"]\s+['\"]", text):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # a backslash in a word
            tree = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if not isinstance(tree, list | tuple | set) or not all(isinstance(word, str) for word in tree):
        return None
    return sorted(tree) if isinstance(tree, set) else list(tree)
