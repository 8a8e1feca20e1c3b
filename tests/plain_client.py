"""A client of the Xeno-canto stand-in that asks as plainly as can be."""

from collections.abc import Mapping
from typing import Any

import requests

from tests.xeno_canto_server import Server, World, make_world

MERULA = "Turdus merula"


class Asker:
    """Asks as plainly as can be: no retries, no redirects of its own accord."""

    def __init__(self, session: requests.Session) -> None:
        self.session = session

    def search(
        self, server: Server, query: str | None = "grp:birds", **more: str | int | None
    ) -> requests.Response:
        asked: dict[str, str | int | None] = {"query": query, "key": "local-key", **more}
        return self.get(f"{server.base_url}/api/3/recordings", asked)

    def get(
        self,
        url: str,
        asked: Mapping[str, str | int | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        return self.session.get(
            url, params=asked, headers=headers, allow_redirects=False, timeout=10
        )

    def walk(
        self, server: Server, query: str = "grp:birds", per_page: int = 50
    ) -> tuple[list[dict[str, Any]], list[int]]:
        """Returns the replies of all pages and the ids in them, cast to int."""
        replies = [self.search(server, query, per_page=per_page).json()]
        replies += [
            self.search(server, query, per_page=per_page, page=page).json()
            for page in range(2, replies[0]["numPages"] + 1)
        ]
        return replies, [int(row["id"]) for reply in replies for row in reply["recordings"]]

    def chain(self, url: str) -> list[requests.Response]:
        replies = [self.get(url)]
        while replies[-1].status_code == 302:
            replies.append(self.get(replies[-1].headers["Location"]))
        return replies

    def audio(self, server: Server, number: int) -> requests.Response:
        return self.chain(f"{server.base_url}/{number}/download")[-1]


def one_species(n: int = 8, seed: int = 1) -> World:
    return make_world(seed, [MERULA], n)
