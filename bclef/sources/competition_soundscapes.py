"""The soundscapes of a competition's folder and what its tables say of them.

Both tables are one here: windows with a file, an end, and labels. A window whose label is `nocall`
makes its file annotated and is no annotation; only that word says that nobody sings.
"""

import logging
import re

import pandas as pd

from bclef.normal_forms import typed
from bclef.sources.competition_layouts import (
    SOUNDSCAPE_FOLDERS,
    Competition,
    Layout,
    read_text,
)
from bclef.sources.competition_rows import (
    SOURCE,
    files_below,
    rejected_rows,
    urls,
)
from bclef.sources.protocol import LISTED, LISTED_ANNOTATIONS, Listing

_log = logging.getLogger(__name__)

WINDOW_S = 5.0
"""Length of a labelled window of 2021, whose table states ends only."""
NO_CALL = "nocall"
_CLOCK = r"^(?P<h>\d+):(?P<m>\d{1,2}):(?P<s>\d{1,2}(?:\.\d+)?)$"


def list_soundscapes(competition: Competition) -> Listing:
    """Returns the soundscapes of `competition` and their annotations.

    Rejected are labelled files that are not there (`missing`), and windows whose times are none or
    that state no label (`bad_annotation`).

    Raises:
        SourceError: no known layout, or a table that cannot be read.
    """
    layout = competition.layout
    prefix = f"{SOURCE}/{competition.name}/soundscape/"
    found = [
        (path, *file)
        for folder in SOUNDSCAPE_FOLDERS
        if (competition.root / folder).is_dir()
        for path, file in files_below(competition.root, folder).items()
    ]
    stems = pd.Series([_stem(name) for name, _, _ in found], dtype="string")
    windows = _windows(competition, layout, stems)
    known, fault = windows["stem"].isin(stems), _faults(windows)
    usable = windows[known & (fault == "")]
    rows = _recordings(stems, competition, usable["stem"]).assign(
        url=pd.Series(
            urls([path for _, path, _ in found], [n for _, _, n in found], competition.name),
            dtype="string",
        )
    )
    lost = windows[~known].groupby("stem", as_index=False).agg(n=("place", "size"))
    bad = windows[known & (fault != "")]
    rejected = [
        rejected_rows(
            prefix + lost["stem"].astype("string"),
            "missing",
            lost["n"].astype("string") + f" windows of it in {competition.name}/{layout.labels}",
        ),
        rejected_rows(
            prefix + bad["stem"], "bad_annotation", bad["place"] + ": " + fault[bad.index]
        ),
    ]
    annotations = _annotations(usable, competition.name, prefix)
    return Listing(rows, annotations, pd.concat(rejected, ignore_index=True))


def _faults(windows: pd.DataFrame) -> pd.Series:
    """Returns what makes each window useless, "" where nothing does."""
    runs = windows["begin_s"].ge(0) & windows["end_s"].gt(windows["begin_s"])
    fault = pd.Series("", windows.index, dtype="string")
    fault = fault.mask(windows["labels"].map(len) == 0, f"no label, not even {NO_CALL}")
    return fault.mask(~runs, "times that are none, or do not run forwards")


def _stem(path: str) -> str:
    name = path.rpartition("/")[2]
    return name.rpartition(".")[0] or name


def _recordings(stems: pd.Series, competition: Competition, labelled: pd.Series) -> pd.DataFrame:
    """Returns the soundscapes called `stems`, but for their url."""
    ids = f"{SOURCE}/{competition.name}/soundscape/" + stems
    made = [_site_and_date(stem, competition.layout) for stem in stems]
    columns = {
        "recording_id": ids,
        "source": SOURCE,
        "role": "soundscape",
        "secondary_labels": pd.Series([[] for _ in stems], stems.index, dtype="object"),
        "group_id": pd.Series([site for site, _ in made], stems.index, dtype="string"),
        "recorded_on": pd.Series([date for _, date in made], stems.index, dtype="string"),
        "attribution": f"organisers of {competition.name}, " + ids + ", licence unknown",
        "page_url": competition.page_url,
        "annotated": stems.isin(labelled),
    }
    return typed(pd.DataFrame(columns, stems.index), LISTED)


def _site_and_date(stem: str, layout: Layout) -> tuple[str | None, str | None]:
    """Returns the site and the ISO date that a soundscape's name holds."""
    for pattern in layout.soundscape_names:
        if found := re.fullmatch(pattern, stem):
            date = found["date"]
            return found["site"], f"{date[:4]}-{date[4:6]}-{date[6:]}"
    return None, None


def _windows(competition: Competition, layout: Layout, stems: pd.Series) -> pd.DataFrame:
    """Returns each labelled window once: place, stem, begin_s, end_s, labels (a sorted tuple)."""
    path = competition.root / (layout.labels or "")
    if not path.is_file():
        return pd.DataFrame(columns=["place", "stem", "begin_s", "end_s", "labels"])
    table = read_text(path, layout.label_columns)
    has_clock = "start" in layout.label_columns
    windows = _windows_by_clock(table) if has_clock else _windows_by_end(table, stems)
    numbers = pd.Series(range(1, len(table) + 1), table.index).astype("string")
    windows["place"] = f"{competition.name}/{path.name} row " + numbers
    once = windows.drop_duplicates(["stem", "begin_s", "end_s", "labels"])
    if n_again := len(windows) - len(once):
        _log.info("%s/%s: %d rows stand there again", competition.name, path.name, n_again)
    return once


def _windows_by_end(table: pd.DataFrame, stems: pd.Series) -> pd.DataFrame:
    """Returns the windows of 2021: `audio_id` and `site` name the file, `seconds` is the end."""
    whole = {stem.rpartition("_")[0]: stem for stem in stems}
    names = table["audio_id"] + "_" + table["site"]
    end_s = pd.to_numeric(table["seconds"], errors="coerce").astype("float64")
    return pd.DataFrame(
        {
            "stem": names.map(whole).fillna(names).astype("string"),
            "begin_s": end_s - WINDOW_S,
            "end_s": end_s,
            "labels": _label_sets(table["birds"]),
        }
    )


def _windows_by_clock(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the windows of 2026: `start` and `end` are hours, minutes and seconds."""
    return pd.DataFrame(
        {
            "stem": table["filename"].map(_stem).astype("string"),
            "begin_s": _seconds(table["start"]),
            "end_s": _seconds(table["end"]),
            "labels": _label_sets(table["primary_label"]),
        }
    )


def _seconds(clock: pd.Series) -> pd.Series:
    """Returns each `HH:MM:SS` in seconds; NaN for what is something else."""
    parts = clock.astype("string").str.extract(_CLOCK).astype("Float64").astype("float64")
    return parts["h"] * 3600 + parts["m"] * 60 + parts["s"]


def _label_sets(texts: pd.Series) -> pd.Series:
    """Returns the labels of each text as a sorted tuple, `nocall` only where no other stands."""
    stated = {text: set(re.split(r"[;,\s]+", text)) - {""} for text in texts.unique()}
    sets = {text: tuple(sorted(labels - {NO_CALL} or labels)) for text, labels in stated.items()}
    return pd.Series([sets[text] for text in texts], texts.index, dtype="object")


def _annotations(windows: pd.DataFrame, name: str, prefix: str) -> pd.DataFrame:
    """Returns one annotation a window and label; windows listed again add their labels."""
    again = windows.duplicated(["stem", "begin_s"], keep=False)
    if again.any():
        first = windows[again].iloc[0]
        _log.warning(
            "%s: %d rows contradict others of their window, such as %s; all their labels count",
            name, int(again.sum()), first["place"],
        )  # fmt: skip
    each = windows.explode("labels")
    each = each[each["labels"] != NO_CALL]
    columns = {
        "recording_id": prefix + each["stem"].astype("string"),
        "start_s": each["begin_s"],
        "label": each["labels"],
        "end_s": each["end_s"],
    }
    rows = typed(pd.DataFrame(columns, each.index), LISTED_ANNOTATIONS)
    return rows.groupby(["recording_id", "start_s", "label"], as_index=False).agg(
        end_s=("end_s", "max")
    )
