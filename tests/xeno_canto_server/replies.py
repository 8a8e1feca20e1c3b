"""What is answered: statuses, headers and bodies. Nothing here knows of sockets."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote

from tests.xeno_canto_server.faults import Faults
from tests.xeno_canto_server.rows import UPLOADER, container_of, file_name, make_row, true_form
from tests.xeno_canto_server.searching import QueryError, newest_first, search
from tests.xeno_canto_server.sounds import MEDIA_TYPES
from tests.xeno_canto_server.stock import Stock
from tests.xeno_canto_server.world import Recording

SEARCH_PATH = "/api/3/recordings"
BAD_KEY = (
    "Missing or invalid 'key' parameter. "
    "Visit https://xeno-canto.org/account to retrieve your API key."
)
DEFAULT_PER_PAGE, LEAST_PER_PAGE, MOST_PER_PAGE = 100, 50, 500
_TITLES = {
    200: "A page for people",
    403: "Forbidden",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Temporarily Unavailable",
}


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int
    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    number: int | None = None
    """The recording whose file this is, or the rest of it."""


def html(status: int, headers: Mapping[str, str] | None = None) -> Reply:
    """Returns a web page."""
    title = f"{status} {_TITLES[status]}"
    page = f"<html>\r\n<head><title>{title}</title></head>\r\n<body><h1>{title}</h1></body></html>"
    return Reply(status, page.encode(), "text/html; charset=UTF-8", headers or {})


def json_reply(status: int, tree: object) -> Reply:
    """Returns `tree` as JSON."""
    body = json.dumps(tree, ensure_ascii=False).encode()
    return Reply(status, body, "application/json")


def refusal(faults: Faults, status: int, code: str, message: str) -> Reply:
    """Returns an error in the shape that is switched on."""
    if faults.error_shape == "nested":
        return json_reply(status, {"error": {"code": code, "message": message}})
    word = "server_error" if status >= 500 else "client_error"
    return json_reply(status, {"error": word, "message": message})


def trouble_reply(faults: Faults, answer: str) -> Reply:
    """Returns the bad answer that consists of a whole reply: a status, or `html`."""
    if answer == "401":
        return refusal(faults, 401, "invalid_key", BAD_KEY)
    if answer == "400":
        return refusal(faults, 400, "bad_request", "This request is not understood")
    if answer == "500":
        return refusal(faults, 500, "server_error", "Something went wrong")
    status = 200 if answer == "html" else int(answer)
    wait = {429: faults.retry_after, 503: faults.retry_after_503}.get(status)
    return html(status, {} if wait is None else {"Retry-After": wait})


def search_reply(stock: Stock, asked: Mapping[str, str], base_url: str) -> Reply:
    """Returns the reply to a search.

    Args:
        stock: what there is.
        asked: the parameters of the query string.
        base_url: of this server.
    """
    faults = stock.faults
    if stock.keys and asked.get("key") not in stock.keys:
        return refusal(faults, 401, "invalid_key", BAD_KEY)
    query = asked.get("query", "").strip()
    if not query:
        return refusal(faults, 400, "missing_parameter", "No query specified")
    try:
        return _page(stock, query, asked, base_url)
    except QueryError as error:
        return refusal(faults, 400, "bad_request", str(error))


def _limited(faults: Faults, text: str, least: int, most: int) -> int:
    """Returns a number of the query string within its limits.

    Raises:
        QueryError: it is outside, and that is refused.
    """
    value = int(text) if text.isascii() and text.isdecimal() else 0
    limited = min(max(value, least), most)
    if limited != value and faults.out_of_range == "refuse":
        raise QueryError(f"{text} is not from {least} to {most}")
    return limited


def _found(stock: Stock, query: str) -> list[Recording]:
    """Returns what a query finds, newest first.

    Raises:
        QueryError: it is not understood.
    """
    wanted = search(query, stock.faults.unknown_tags == "refuse")
    stock.note(wanted.notes)
    shapes = stock.shapes
    return newest_first(
        [
            item
            for item in stock.world.recordings
            if item.number not in stock.withdrawn
            and not (wanted.has_box and item.number in shapes.restricted)
            and wanted.finds(true_form(item, shapes.odd.get(item.number)))
        ]
    )


def _page(stock: Stock, query: str, asked: Mapping[str, str], base_url: str) -> Reply:
    """Returns one page of what `query` finds.

    Raises:
        QueryError: it is not understood, or a number is refused.
    """
    faults = stock.faults
    usual = str(DEFAULT_PER_PAGE)
    per_page = _limited(faults, asked.get("per_page", usual), LEAST_PER_PAGE, MOST_PER_PAGE)
    found = _found(stock, query)
    page = _limited(faults, asked.get("page", "1"), 1, len(found) // per_page + 1)
    found = stock.shifted(found, query, page, per_page)
    rows = found[(page - 1) * per_page : page * per_page]
    if page == 2 and rows and stock.repeats(query, per_page):
        rows[0] = found[per_page - 1]
    as_stated = str if stock.faults.counts == "string" else int
    return json_reply(
        200,
        {
            "numRecordings": as_stated(len(found)),
            "numSpecies": as_stated(len({item.species for item in found})),
            "page": page,
            "numPages": len(found) // per_page + 1,
            "recordings": [make_row(item, stock.shapes, base_url) for item in rows],
        },
    )


def hop_of(path: str, stock: Stock) -> tuple[int, Recording] | None:
    """Returns which hop towards which file `path` is, or null where there is none.

    Hop 0 is `/<id>/download`; the last one is the audio itself.
    """
    found = re.fullmatch(r"/(\d+)/download(?:/[^/]*)?", path)
    if found:
        return _hop(stock, 0, int(found[1]))
    found = re.fullmatch(r"/sounds/hop/(\d+)/(\d+)", path)
    if found:
        return _hop(stock, int(found[1]), int(found[2]))
    found = re.fullmatch(rf"/sounds/uploaded/{UPLOADER}/([^/]+)", path)
    if found:
        number = re.search(r"XC(\d+)-", unquote(found[1]))
        return _hop(stock, stock.n_hops, int(number[1])) if number else None
    return None


def _hop(stock: Stock, hop: int, number: int) -> tuple[int, Recording] | None:
    recording = stock.obtainable(number)
    return None if recording is None else (hop, recording)


def redirect(stock: Stock, hop: int, recording: Recording, base_url: str) -> Reply:
    """Returns the reply that sends the client on from `hop` to the next one."""
    name = file_name(recording, stock.shapes.odd.get(recording.number))
    place = "" if stock.faults.relative_redirects else base_url
    target = f"{place}/sounds/hop/{hop + 1}/{recording.number}"
    if hop + 1 >= stock.n_hops:
        uploaded = f"{place}/sounds/uploaded/{UPLOADER}/{quote(name, safe='')}"
        target = stock.faults.redirect_to or uploaded
    return Reply(302, b"", "text/html; charset=UTF-8", {"Location": target})


def file_reply(stock: Stock, recording: Recording, headers: Mapping[str, str]) -> Reply:
    """Returns the audio of `recording`, or the part of it that `headers` ask for."""
    faults = stock.faults
    container = container_of(recording, stock.shapes.odd.get(recording.number))
    body = stock.audio(recording, container)
    media_type = faults.content_type or MEDIA_TYPES[container]
    sent = {"Accept-Ranges": "bytes"} if faults.ranges else {}
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    if faults.etag:
        sent["ETag"] = tag
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range", ""))
    same = headers.get("If-Range", tag) == tag
    if asked is None or not faults.ranges or not same:
        return Reply(200, body, media_type, sent, recording.number)
    first, last = int(asked[1]), min(int(asked[2] or len(body)), len(body) - 1)
    if first > last:
        return Reply(416, b"", media_type, sent | {"Content-Range": f"bytes */{len(body)}"})
    sent["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
    return Reply(206, body[first : last + 1], media_type, sent, recording.number)
