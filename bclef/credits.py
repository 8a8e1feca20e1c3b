"""Whose recordings a model learnt from: a table and a page that travel with every export.

Recordist, licence and address are what Xeno-canto, iNaturalist and Creative Commons ask to name.
What a licence means for a model is not decided here; the page says what was used.
"""

import csv
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

COLUMNS = ["recording_id", "scientific_name", "recordist", "licence", "attribution", "url"]
"""Columns of a table of credits; an empty field is not known."""
_DEEDS = "https://creativecommons.org"


class CreditsError(Exception):
    """A table of credits is not what it should be, or lacks recordings that a model learnt from."""


def read_credits(path: Path) -> pd.DataFrame:
    """Returns the table of credits at `path`, as the fetch stage writes it, all columns text.

    Raises:
        CreditsError: No such file, other columns, or a row without id or of another length.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
    except (OSError, ValueError, csv.Error) as error:
        raise CreditsError(f"{path}: not a table of credits ({error}): dvc repro fetch") from error
    if header != COLUMNS:
        found = ",".join(header)
        raise CreditsError(f"{path}: found columns {found}, expected {','.join(COLUMNS)}")
    for number, row in enumerate(rows, start=1):
        if len(row) != len(COLUMNS) or not row[0]:
            raise CreditsError(
                f"{path}: row {number} is {row}, expected {len(COLUMNS)} fields that begin with a "
                "recording_id: dvc repro fetch"
            )
    return pd.DataFrame(rows, columns=COLUMNS, dtype="string")


def credits_of(index: pd.DataFrame, table: pd.DataFrame, *, with_unlabelled: bool) -> pd.DataFrame:
    """Returns the credits of the recordings that a model learnt from, by species, then id.

    Annotated recordings are test material and not among them.

    Args:
        index: recording_id, role and annotated of all recordings in the feature store.
        table: Credits of at least those, as `read_credits` returns them.
        with_unlabelled: Whether it learnt from unlabelled soundscapes too, as a student does.

    Raises:
        CreditsError: Recordings without credit.
    """
    roles = ["focal", "noise", *(["soundscape"] if with_unlabelled else [])]
    learnt = index.loc[index["role"].isin(roles) & ~index["annotated"], "recording_id"]
    if uncredited := sorted(set(learnt) - set(table["recording_id"])):
        raise CreditsError(
            f"{len(uncredited)} recordings that the model learnt from are not credited, such as "
            f"{uncredited[0]}: dvc repro fetch"
        )
    chosen = table[table["recording_id"].isin(learnt)]
    return chosen.sort_values(["scientific_name", "recording_id"], ignore_index=True)


def licence_counts(table: pd.DataFrame) -> dict[str, int]:
    """Returns the number of recordings under each licence, by name."""
    counts = table["licence"].value_counts()
    return {str(licence): int(counts[licence]) for licence in sorted(counts.index)}


def write_credits(table: pd.DataFrame, csv_path: Path, page_path: Path) -> None:
    """Writes a table of credits as a CSV file and as a self-contained HTML page."""
    table.to_csv(csv_path, index=False, lineterminator="\n", quoting=csv.QUOTE_ALL)
    page_path.write_text(render_page(table), encoding="utf-8")


def render_page(table: pd.DataFrame) -> str:
    """Returns the page of a table of credits; all that comes from outside is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    by_species = [
        (str(species), rows.to_dict("records"))
        for species, rows in table.groupby("scientific_name", sort=True)
    ]
    return environment.get_template("credits.html.j2").render(
        n_recordings=len(table),
        n_recordists=table.loc[table["recordist"] != "", "recordist"].nunique(),
        licences=[(name, n, deed_url(name)) for name, n in licence_counts(table).items()],
        species=by_species,
        link=_link,
    )


def deed_url(licence: str) -> str | None:
    """Returns where a licence in normal form can be read, None without a version of it.

    >>> deed_url("CC-BY-NC-SA-4.0")
    'https://creativecommons.org/licenses/by-nc-sa/4.0/'
    """
    if licence == "CC0":
        return f"{_DEEDS}/publicdomain/zero/1.0/"
    form, _, number = licence.rpartition("-")
    if not form.startswith("CC-BY") or "." not in number:
        return None
    return f"{_DEEDS}/licenses/{form.removeprefix('CC-').lower()}/{number}/"


def _link(url: str) -> str | None:
    """Returns `url` if a browser may be sent there."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in ("http", "https") and parts.netloc else None
