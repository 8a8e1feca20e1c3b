"""A server on this machine that answers like iNaturalist's API v1, with its traps as switches.

Written without a look at a live reply, from what is known of the API: the shape of its replies, and
what its own query builder says of its parameters (iNaturalist/iNaturalistAPI). It serves
`/v1/observations` and the files of the sounds:

    site = Site([observation(1), observation(2, sounds=[sound(7, license_code=None)])])
    with serving(site) as base_url:
        ...
    assert [request.path for request in site.requests] == ["/v1/observations"]
"""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

FILES = "https://static.inaturalist.org"
"""Where files are; replies name the server's own address in its place."""
WINDOW = 10_000
"""`page` reaches no further than this many observations."""
MP3 = b"\xff\xfb\x90\x64" + bytes(413)


def sound(sound_id: object, **changes: object) -> dict[str, object]:
    """Returns a sound as the API states it, with `changes`."""
    return {
        "id": sound_id,
        "file_url": f"{FILES}/sounds/{sound_id}.mp3?1600000000",
        "file_content_type": "audio/mpeg",
        "license_code": "cc-by",
        "attribution": "(c) example_user, some rights reserved (CC BY)",
        "native_sound_id": None,
        "subtype": None,
        "secret_token": None,
        "hidden": False,
        "flags": [],
        "moderator_actions": [],
    } | changes


def observation(number: object, **changes: object) -> dict[str, object]:
    """Returns an observation with one sound of ten times its number, with `changes`."""
    sounds = [sound(10 * number)] if isinstance(number, int) else []
    return {
        "id": number,
        "quality_grade": "research",
        "observed_on": "2021-05-03",
        "updated_at": "2021-05-04T10:11:12+00:00",
        "geojson": {"type": "Point", "coordinates": [-1.5, 51.6]},
        "location": "51.6,-1.5",
        "obscured": False,
        "geoprivacy": None,
        "taxon_geoprivacy": None,
        "place_ids": [1, 6857],
        "taxon": taxon("Turdus merula"),
        "user": {"id": 5, "login": "example_user", "name": "Example User"},
        "license_code": "cc-by-nc",
        "sounds": sounds,
    } | changes


def taxon(
    name: str, rank: str | None = "species", iconic: str | None = "Aves"
) -> dict[str, object]:
    """Returns a taxon as the API states it."""
    return {
        "id": 12716,
        "name": name,
        "rank": rank,
        "preferred_common_name": "Eurasian Blackbird",
        "iconic_taxon_name": iconic,
    }


@dataclass(frozen=True)
class Request:
    """One request that came in."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    at_s: float


@dataclass
class Site:
    """What the server holds, how it misbehaves, and what it was asked."""

    observations: list[dict[str, object]]
    other_names: dict[str, list[str]] = field(default_factory=dict)
    """Further names of a taxon, such as old or common ones; `taxon_name` finds it by them too."""
    refusals: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)
    """Status, headers and body of the answers to the next requests, whatever they are."""
    is_deaf_to_id_above: bool = False
    """Whether every page is the first one."""
    before_reply: Callable[[int], None] | None = None
    """Called with the number of the request, counted from 1, before it is answered."""
    requests: list[Request] = field(default_factory=list)

    @property
    def searches(self) -> list[dict[str, str]]:
        """The queries that came in."""
        return [request.query for request in self.requests if request.path == "/v1/observations"]

    def answer(self, request: Request, base_url: str) -> tuple[int, dict[str, str], bytes]:
        """Returns status, headers and body for `request`."""
        if self.refusals:
            return self.refusals.pop(0)
        if request.path == "/v1/observations":
            return self._search(request.query, base_url)
        if re.fullmatch(r"/sounds/\d+\.\w+", request.path):
            return 200, {"Content-Type": "audio/mpeg"}, MP3
        return 404, {"Content-Type": "text/html"}, b"<html>404 Not Found</html>"

    def _search(self, query: dict[str, str], base_url: str) -> tuple[int, dict[str, str], bytes]:
        is_json = {"Content-Type": "application/json; charset=utf-8"}
        page = int(query.get("page", 1))
        per_page = min(200, int(query.get("per_page", 30)))
        if page * per_page > WINDOW:
            fault = {"error": f"Result window is too large, the max is {WINDOW}", "status": 403}
            return 403, is_json, json.dumps(fault).encode()
        found = [seen for seen in self.observations if self._matches(seen, query)]
        # What has no id comes last: a real index has none of those, a broken reply may.
        found.sort(key=lambda seen: seen["id"] if isinstance(seen.get("id"), int) else 10**12)
        if query.get("order", "desc") == "desc":
            found.reverse()
        first = (page - 1) * per_page
        reply = {
            "total_results": len(found),
            "page": page,
            "per_page": per_page,
            "results": found[first : first + per_page],
        }
        return 200, is_json, json.dumps(reply).replace(FILES, base_url).encode()

    def _matches(self, seen: dict[str, Any], query: dict[str, str]) -> bool:
        sounds = [item for item in seen.get("sounds") or [] if isinstance(item, dict)]
        codes = {item.get("license_code") for item in sounds}
        held = seen.get("taxon") or {}
        names = [held.get("name") or "", *self.other_names.get(held.get("name"), [])]
        is_asked_for = {
            "sounds": lambda asked: asked != "true" or bool(sounds),
            "sound_license": lambda asked: bool(codes & set(asked.split(","))),
            "quality_grade": lambda asked: seen.get("quality_grade") == asked,
            "place_id": lambda asked: int(asked) in (seen.get("place_ids") or []),
            "taxon_name": lambda asked: any(_words(asked) <= _words(name) for name in names),
            "iconic_taxa": lambda asked: held.get("iconic_taxon_name") in asked.split(","),
            "updated_since": lambda asked: seen.get("updated_at", "") >= asked,
            "id_above": lambda asked: self._is_above(seen.get("id"), int(asked)),
        }
        return all(is_asked_for[key](value) for key, value in query.items() if key in is_asked_for)

    def _is_above(self, number: object, last_id: int) -> bool:
        if self.is_deaf_to_id_above:
            return True
        return number > last_id if isinstance(number, int) else last_id == 0


def _words(name: str) -> set[str]:
    return set(name.lower().split())


@contextmanager
def serving(site: Site) -> Iterator[str]:
    """Serves `site` on a free port of this machine and gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
            request = Request(parts.path, query, dict(self.headers), time.monotonic())
            site.requests.append(request)
            if site.before_reply:
                site.before_reply(len(site.requests))
            status, headers, body = site.answer(request, base_url)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        base_url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield base_url
        finally:
            server.shutdown()
            thread.join()
