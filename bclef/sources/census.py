"""Takes stock of the user's audio: which files there are, and what tables say of them."""

import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote_from_bytes

from bclef.sources.files import SUFFIXES, find_audio, plain_name, sha256_of
from bclef.sources.protocol import SourceError
from bclef.sources.sheets import (
    ANNOTATION_COLUMNS,
    DETAIL_COLUMNS,
    SheetRow,
    read_sheet,
    stated_metadata,
)

_BINOMIAL = re.compile(r"[A-Za-z]{3,}[_ ][A-Za-z]{3,}(?:[_ ][A-Za-z]{3,})?")


def root_of(place: Path) -> Path:
    """Returns the folder that paths are relative to."""
    return place if place.is_dir() else place.parent


def same_file(path: Path) -> str:
    """Returns the key under which tables and disk agree on a file, whatever its Unicode form."""
    return unicodedata.normalize("NFC", os.path.abspath(path))  # noqa: PTH100  links stay links


@dataclass
class Census:
    """What was found so far."""

    details: Mapping[str, SheetRow]
    rows: dict[str, dict[str, object]] = field(default_factory=dict)
    rejected: list[dict[str, str]] = field(default_factory=list)
    soundscapes: dict[str, str] = field(default_factory=dict)

    def count(self, role: str, place: Path) -> None:
        """Lists the folder or table at `place`.

        Raises:
            SourceError: there is no audio in it.
        """
        n_before = len(self.rows) + len(self.rejected)
        if place.is_dir():
            self._count_folder(role, place)
        else:
            self._count_sheet(role, place)
        if len(self.rows) + len(self.rejected) == n_before:
            raise SourceError(f"{place}: no audio; expected files in {' '.join(sorted(SUFFIXES))}")

    def _count_folder(self, role: str, root: Path) -> None:
        for path, fault in find_audio(root):
            relative = path.relative_to(root)
            name = f"folder/{role}/{plain_name(relative.as_posix())}"
            if fault:
                self._reject(name, "unreadable", f"{path}: {fault}")
                continue
            stated: dict[str, object] = {}
            if role == "focal" and len(relative.parts) > 1:
                stated = _species_of_folder(relative.parts[0])
            self._add(role, root, path, stated, None)

    def _count_sheet(self, role: str, sheet: Path) -> None:
        root = sheet.parent
        listed: dict[str, str | None] = {}
        for row in read_sheet(sheet, DETAIL_COLUMNS, ()):
            relative = os.path.relpath(row.path, os.path.abspath(root))  # noqa: PTH100  links stay
            name = f"folder/{role}/{plain_name(relative)}"
            path = _on_disk(row.path)
            label = row.values.get("label") or row.values.get("scientific_name")
            if not row.is_inside:
                self._reject(name, "outside", f"{row.place}: the path leaves the table's folder")
            elif path is None:
                self._reject(name, "missing", f"{row.place}: no such file: {row.path}")
            elif name in listed:
                same = listed[name] == label
                reason = "listed_twice" if same else "label_clash"
                self._reject(name, reason, f"{row.place}: {label!r}, before it {listed[name]!r}")
            else:
                listed[name] = label
                self._add(role, root, path, {}, row)

    def _add(
        self, role: str, root: Path, path: Path, derived: Mapping[str, object], row: SheetRow | None
    ) -> None:
        """Adds one file: its row says most, then the details, then what its folder tells."""
        relative = os.path.relpath(path, root)
        name = f"folder/{role}/{plain_name(relative)}"
        detail = self.details.get(same_file(path))
        try:
            stated = dict(derived)
            for source in filter(None, (detail, row)):
                stated |= stated_metadata(source)
            sha256 = sha256_of(path)
        except ValueError as error:
            self._reject(name, "bad_value", str(error))
            return
        except OSError as error:
            self._reject(name, "unreadable", f"{path}: {error.strerror}")
            return
        if role != "focal":
            stated.pop("label", None)
        elif not (stated.get("label") or stated.get("scientific_name")):
            self._reject(
                name, "no_label", f"{path}: not in a species folder, and no table names it"
            )
            return
        quoted = quote_from_bytes(os.fsencode(relative))
        self.rows[name] = (
            {"secondary_labels": []}
            | stated
            | {
                "recording_id": name,
                "role": role,
                "attribution": _attribution(stated, path),
                "url": f"folder:{role}/{sha256}/{quoted}",
                "source_sha256": sha256,
                "annotated": False,
            }
        )
        if role == "soundscape":
            self.soundscapes[same_file(path)] = name

    def annotate(self, sheet: Path | None) -> list[dict[str, object]]:
        """Returns the annotations in `sheet` and marks the soundscapes that it names."""
        annotations: dict[tuple[object, ...], dict[str, object]] = {}
        rows = read_sheet(sheet, ANNOTATION_COLUMNS, ANNOTATION_COLUMNS) if sheet else []
        for row in rows:
            name = self.soundscapes.get(same_file(row.path))
            if name is None:
                missing = f"folder/soundscape/{plain_name(row.path.name)}"
                self._reject(missing, "bad_annotation", f"{row.place}: no soundscape {row.path}")
                continue
            self.rows[name]["annotated"] = True
            try:
                annotation = _annotation(name, row)
            except ValueError as error:
                self._reject(name, "bad_annotation", str(error))
                continue
            if annotation:
                key = (name, annotation["start_s"], annotation["label"])
                annotations.setdefault(key, annotation)
        return list(annotations.values())

    def _reject(self, name: str, reason: str, detail: str) -> None:
        self.rejected.append(
            {
                "recording_id": name,
                "stage": "metadata",
                "reason": reason,
                "detail": plain_name(detail),
            }
        )


def _on_disk(path: Path) -> Path | None:
    """Returns the file at `path`, also where the disk has its name in another Unicode form."""
    forms: Iterable[Path] = (
        path,
        *(Path(unicodedata.normalize(f, str(path))) for f in ("NFC", "NFD")),
    )
    return next((form for form in forms if _is_file(form)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name longer than the system allows
        return False


def _species_of_folder(name: str) -> dict[str, object]:
    """Returns the label that a folder's name is, and a scientific name if it looks like one."""
    stated: dict[str, object] = {"label": plain_name(unicodedata.normalize("NFC", name))}
    if _BINOMIAL.fullmatch(name):
        stated["scientific_name"] = name.replace("_", " ").capitalize()
    return stated


def _attribution(stated: Mapping[str, object], path: Path) -> str:
    recordist = stated.get("recordist") or "unknown recordist"
    return f"{recordist}, {stated.get('licence') or 'licence unknown'} ({plain_name(path.name)})"


def _annotation(name: str, row: SheetRow) -> dict[str, object] | None:
    """Returns one annotation; None for a row that says nobody sings.

    Raises:
        ValueError: times are missing, are no numbers, or do not run forwards.
    """
    label = row.values.get("label")
    if label is None:
        return None
    start_s = row.number("start_s", 0, 1e7)
    end_s = row.number("end_s", 0, 1e7)
    if start_s is None or end_s is None or end_s <= start_s:
        raise ValueError(f"{row.place}: found {start_s} to {end_s} s, expected start_s < end_s")
    return {"recording_id": name, "start_s": start_s, "label": label, "end_s": end_s}
