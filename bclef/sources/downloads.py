"""The bytes of one file as they come in: what was asked for, no more than is wanted, resumable.

Beside the bytes stands a JSON file that says which answer they are the beginning of. It is written
when that answer begins, so bytes without it, or with one that makes no sense, start anew. What is
there is added to only if the server vouches that the file is still the same: by its ETag, by its
date, or at least (where it offers ranges but states neither) by the length of the whole.
"""

import math
import re
from http import HTTPStatus
from pathlib import Path
from typing import Self

import requests
from pydantic import Field, ValidationError

from bclef.config import Section
from bclef.sources.hiding import Hider
from bclef.sources.protocol import FetchError
from bclef.sources.replies import BodyBrokenError, Haste, chunks, parsed
from bclef.tables import TableError, read_json, write_json

_WRONG_TYPE = re.compile(
    r"(text|image|font|message|model|multipart)/.*"
    r"|application/(.*[+])?(json|xml|xhtml|html|javascript|pdf|zip)"
)
_BLANK = b" \t\r\n\f\v\xef\xbb\xbf"
_UTF_16_PAGE = (b"\xff\xfe<\0", b"\xfe\xff\0<")
_MOST_WORDS_BYTES = 64 << 10
_RANGE = re.compile(r"bytes (?P<first>[0-9]{1,18})-[0-9]{1,18}/(?P<total>[0-9]{1,18}|\*)")
_VALIDATOR = r"^[\x20-\x7e]{1,200}$"


class _Answer(Section):
    """What the headers of an answer say of the file."""

    url: str
    """Address that was asked."""
    validator: str | None = Field(pattern=_VALIDATOR)
    """What the server knows this very file by: a strong ETag, else its date."""
    n_total_bytes: int | None = Field(ge=0)
    """Length of the whole file, where it is stated."""
    takes_ranges: bool
    """Whether the server says that it gives parts of files, and how long the whole is."""

    @classmethod
    def of(cls, url: str, response: requests.Response, hider: Hider) -> Self:
        """Returns what a 200 says, but for a validator with a secret in it."""
        headers = response.headers
        stated = headers.get("Content-Length", "")
        # A body that is packed, or comes in chunks, is of another length than the header says.
        is_exact = not _is_packed(response) and "Transfer-Encoding" not in headers
        total = int(stated) if is_exact and re.fullmatch(r"[0-9]{1,18}", stated) else None
        takes_ranges = headers.get("Accept-Ranges", "").strip().lower() == "bytes"
        validator = _validator(response)
        return cls(
            url=url,
            validator=validator if validator == hider.hide(validator or "") else None,
            n_total_bytes=total,
            takes_ranges=takes_ranges and total is not None,
        )

    @classmethod
    def read(cls, path: Path, url: str) -> Self | None:
        """Returns what `path` says about `url`, or None where that is nothing of use."""
        try:
            answer = cls.model_validate(read_json(path))
        except (TableError, OSError, RecursionError, ValidationError):
            return None
        return answer if answer.url == url else None


class Part:
    """What has come of one file so far."""

    def __init__(self, path: Path, url: str, max_bytes: int, hider: Hider) -> None:
        """Takes up what stands at `path` if it is of `url`; else there is nothing so far.

        Args:
            path: Of the bytes; the JSON file is called the same and `.json`.
            url: Address of the file.
            max_bytes: What is larger is refused.
            hider: Knows what must not be kept.
        """
        self.url = url
        self._path, self._max_bytes, self._hider = path, max_bytes, hider
        self._answer = _Answer.read(_facts_path(path), url)

    def is_whole(self) -> bool:
        """Returns whether all bytes are there.

        Raises:
            FetchError: `too_large`, as is known from an earlier answer.
        """
        if self._answer is None:
            return False
        self._check_size(self._answer.n_total_bytes or 0)
        return 0 < self._n_bytes() == self._answer.n_total_bytes

    def range_headers(self) -> dict[str, str]:
        """Returns the headers that ask for the missing bytes only; none asks for the whole file."""
        n_bytes, answer = self._n_bytes(), self._answer
        if answer is None or not 0 < n_bytes < (answer.n_total_bytes or math.inf):
            return {}
        asked = {"Range": f"bytes={n_bytes}-"}
        if answer.validator:
            return {**asked, "If-Range": answer.validator}
        return asked if answer.takes_ranges else {}

    def is_continued_by(self, response: requests.Response) -> bool:
        """Returns whether an answer is a 206 that goes on right here in the same file."""
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        is_part = response.status_code == HTTPStatus.PARTIAL_CONTENT and not _is_packed(response)
        if self._answer is None or found is None or not is_part:
            return False
        validator = _validator(response)
        totals = {self._answer.n_total_bytes, _range_total(response)}
        return (
            int(found["first"]) == self._n_bytes()
            and validator in (None, self._answer.validator)
            and len(totals - {None}) == 1
        )

    def discard(self) -> None:
        """Removes the bytes and what is known of them."""
        discard_part(self._path)
        self._answer = None

    def begin(self, response: requests.Response, haste: Haste) -> None:
        """Writes the body of a 200 in place of what is there.

        Raises:
            FetchError: `not_audio` or `too_large`.
            BodyBrokenError: There is more of the file than came.
        """
        answer = _Answer.of(self.url, response, self._hider)
        _check_type(response)
        self._check_size(answer.n_total_bytes or 0)
        self.discard()
        write_json(_facts_path(self._path), answer.model_dump())
        self._answer = answer
        self.append(response, haste)

    def append(self, response: requests.Response, haste: Haste) -> None:
        """Writes the body of a 206 after what is there.

        Raises:
            FetchError: `not_audio` or `too_large`.
            BodyBrokenError: There is more of the file than came.
        """
        _check_type(response)
        n_bytes = self._n_bytes()
        is_begun = n_bytes > 0
        with self._path.open("ab") as file:
            for piece in chunks(response, haste.fault_of_file, BodyBrokenError):
                n_bytes += len(piece)
                self._check_size(n_bytes)
                is_begun = is_begun or _begins_audio(piece)
                file.write(piece)
        self._check_end(n_bytes, response)

    def _n_bytes(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def _check_size(self, n_bytes: int) -> None:
        if n_bytes > self._max_bytes:
            raise FetchError.too_large(n_bytes, self._max_bytes)

    def _check_end(self, n_bytes: int, response: requests.Response) -> None:
        """Compares what is there with the length stated; if there is none, this is the length."""
        if self._answer is None:
            return
        total = self._answer.n_total_bytes
        if total is None:
            total = _range_total(response) or n_bytes
            self._answer = self._answer.model_copy(update={"n_total_bytes": total})
            write_json(_facts_path(self._path), self._answer.model_dump())
        if n_bytes != total:
            raise BodyBrokenError(f"{n_bytes} bytes came of {total}")
        if n_bytes <= _MOST_WORDS_BYTES and parsed(self._path.read_bytes()) is not None:
            raise FetchError("not_audio", "is JSON as error messages are, expected audio")


def discard_part(path: Path) -> None:
    """Removes the bytes at `path` and what is known of them, as far as they are there."""
    # In this order: bytes of which nothing is known count for nothing.
    for old in (_facts_path(path), path):
        if old.exists():  # where nothing can be written, to remove what is not there fails too
            old.unlink(missing_ok=True)


def _facts_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _is_packed(response: requests.Response) -> bool:
    return response.headers.get("Content-Encoding", "identity").strip().lower() != "identity"


def _validator(response: requests.Response) -> str | None:
    """Returns what the server knows the file by, if it is fit to be asked for by it."""
    etag = response.headers.get("ETag", "W/")
    found = response.headers.get("Last-Modified") if etag.startswith("W/") else etag
    return found if found and re.fullmatch(_VALIDATOR, found) else None


def _range_total(response: requests.Response) -> int | None:
    """Returns the length of the whole file as a 206 states it."""
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return int(found["total"]) if found and found["total"] != "*" else None


def _check_type(response: requests.Response) -> None:
    stated = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if _WRONG_TYPE.fullmatch(stated):
        raise FetchError("not_audio", f"came as {stated}, expected audio")


def _begins_audio(piece: bytes) -> bool:
    """Returns whether the first byte that is no blank has come.

    Raises:
        FetchError: `not_audio`: it begins a web page.
    """
    begun = piece.lstrip(_BLANK)
    if begun.startswith(b"<") or piece.startswith(_UTF_16_PAGE):
        raise FetchError("not_audio", "begins with < as web pages do, expected audio")
    return bool(begun)
