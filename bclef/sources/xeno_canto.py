"""Xeno-canto through its API v3: every page of every search, politely, and kept on disk.

What is asked stands in `xeno_canto_query`, how the pages of a search are walked in
`xeno_canto_paging`, how a recording is read in `xeno_canto_reply`, and which ones are taken in
`xeno_canto_rows`. Here all of it comes together with the key, the connection and the cache.
"""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property, partial
from pathlib import Path

from bclef.parallel import progress_bar
from bclef.sources.addresses import is_loopback
from bclef.sources.asking import naming_address
from bclef.sources.http import HttpConfig, HttpStatusError, PoliteClient
from bclef.sources.protocol import (
    LISTED_ANNOTATIONS,
    LISTED_REJECTED,
    Listing,
    SourceError,
    SourceStoppedError,
    listed_frame,
)
from bclef.sources.searches import Page, SearchCache, search_digest
from bclef.sources.xeno_canto_paging import walk_pages
from bclef.sources.xeno_canto_query import Query, XenoCantoConfig, queries
from bclef.sources.xeno_canto_rows import OUTSIDE_QUERY, Rejection, Verdict, listed_row
from bclef.taxonomy import Synonyms

__all__ = ["XenoCantoConfig", "XenoCantoSource"]

_log = logging.getLogger(__name__)

KEY_VARIABLE = "XC_API_KEY"
"""Environment variable that holds the key; nothing else does."""

_NO_SUCH_PAGE = (400, 404)
"""What a server may say of a page that is no more."""
_REFUSED = "HTTP 401"
"""What `PoliteClient` says when the server wants another key."""
_ADVICE = {
    "species": "check the spelling in xeno_canto.species, and put other names of a species into "
    "taxonomy/synonyms.csv",
    "country": "check the spelling of xeno_canto.country, an English name",
    "area": "check xeno_canto.area",
    "box": "check xeno_canto.box",
}
"""What to look at when nothing came, by the param that was asked for."""


@dataclass(frozen=True)
class XenoCantoSource:
    """Lists and fetches recordings of Xeno-canto.

    Args:
        config: What to ask for.
        http: How patiently.
        cache_root: Folder of the searches on disk.
        synonyms: Under which other names a species is searched for.
    """

    config: XenoCantoConfig
    http: HttpConfig
    cache_root: Path
    synonyms: Synonyms

    @property
    def name(self) -> str:
        """The source's name."""
        return "xeno_canto"

    @property
    def is_remote(self) -> bool:
        """True: one connection, with pauses."""
        return True

    def list_recordings(self) -> Listing:
        """Returns all recordings that answer the section; the others that came are in `rejected`.

        Raises:
            SourceError: There is no key, the section asks for everything, or nothing was found.
            SourceStoppedError: The server refuses, or is too busy; the next run goes on there.
        """
        answers = self._answers(queries(self.config, self.synonyms))
        listed: dict[str, dict[str, object]] = {}
        rejected: dict[str, Rejection] = {}
        for verdict in (verdict for verdicts in answers.values() for verdict in verdicts):
            if isinstance(verdict, Rejection):
                rejected.setdefault(verdict.recording_id, verdict)
            else:
                listed.setdefault(str(verdict["recording_id"]), verdict | {"source": self.name})
        refused = [said for key, said in rejected.items() if key not in listed]
        refused += self._not_found(answers)
        return Listing(
            listed_frame([listed[key] for key in sorted(listed)]),
            listed_frame([], LISTED_ANNOTATIONS),
            listed_frame(
                [
                    {"stage": "metadata", **vars(said)}
                    for said in sorted(refused, key=lambda said: said.recording_id)
                ],
                LISTED_REJECTED,
            ),
        )

    def fetch(self, url: str, path: Path, max_bytes: int) -> None:
        """Writes the audio at `url` to `path`.

        Raises:
            FetchError: It cannot be had.
            SourceStoppedError: Nothing more can be had now.
        """
        self._client.download(url, path, max_bytes, interval_s=self.config.file_interval_s)

    def __getstate__(self) -> dict[str, object]:
        """Returns what makes the source anew elsewhere: all but its connection."""
        return {name: value for name, value in vars(self).items() if name != "_client"}

    @cached_property
    def _client(self) -> PoliteClient:
        client = PoliteClient(
            self.http,
            self.config.base_url,
            self.cache_root,
            max_requests=self.config.max_requests,
        )
        # Where files are fetched too: a server that knows the key may say it in any reply.
        client.keep_secret({"key": os.environ.get(KEY_VARIABLE, "").strip()})
        return client

    def _answers(self, asked: Sequence[Query]) -> dict[Query, list[Verdict]]:
        """Returns what became of each recording that came, by search.

        The connection is given up at the end, so that other processes can ask.
        """
        cache = SearchCache(
            self.cache_root / self.name,
            self.config.base_url,
            self.config.update_after_hours,
            self.config.refresh_after_days,
        )
        answers: dict[Query, list[Verdict]] = {}
        progress = progress_bar(len(asked), f"search {self.name}", "search")
        with cache, self._client, progress:
            for query in asked:
                rows = cache.rows(query.text(), partial(self._walk, query))
                answers[query] = self._judged(query, rows)
                progress.update()
        return answers

    def _walk(self, query: Query, since: date | None, had: Sequence[Page]) -> Iterator[Page]:
        """Returns the further pages of a search; see `searches.Walk`."""
        text = query.text(since)
        ask = partial(self._reply, text)
        return walk_pages(ask, had, self.config.per_page, f"{self.name}: {text}")

    def _reply(self, text: str, number: int) -> Mapping[str, object]:
        """Returns the reply to a search for its page `number`."""
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if not key and not is_loopback(self.config.base_url):
            raise SourceError(
                f"{KEY_VARIABLE} is not set: {self.config.base_url} answers its members only; "
                f"take the key from https://xeno-canto.org/account and export {KEY_VARIABLE}=..."
            )
        url = f"{self.config.base_url}/api/3/recordings"
        with naming_address(url, f"{self.name}.base_url"):
            try:
                return self._client.get_json(
                    url,
                    {"query": text, "page": number, "per_page": self.config.per_page},
                    interval_s=self.config.search_interval_s,
                    secrets={"key": key} if key else {},
                )
            except HttpStatusError as error:
                if number == 1 or error.status not in _NO_SUCH_PAGE:
                    raise
                # The last page went while others were asked for: the count tells if one is missing.
                return {"recordings": []}
            except SourceStoppedError as error:
                if _REFUSED not in str(error):
                    raise
                fault = f"{KEY_VARIABLE} {'was refused' if key else 'is not set'}"
                raise SourceStoppedError(
                    f"{error}; {fault}: export {KEY_VARIABLE}=... with a key that is valid there"
                ) from error

    def _judged(self, query: Query, rows: Iterable[object]) -> list[Verdict]:
        digest = search_digest(self.config.base_url, query.text())
        return [listed_row(row, query, self.config, digest) for row in rows]

    def _not_found(self, answers: Mapping[Query, Sequence[Verdict]]) -> list[Rejection]:
        """Returns the species of which nothing came.

        Raises:
            SourceError: Nothing came of any.
        """
        n_found: dict[str, int] = {}
        texts: dict[str, list[str]] = {}
        for query, verdicts in answers.items():
            name = query.asked_for or ""
            n_found[name] = n_found.get(name, 0) + sum(map(_is_answer, verdicts))
            texts.setdefault(name, []).append(query.text())
        advice = "; ".join(said for name, said in _ADVICE.items() if getattr(self.config, name))
        if not any(n_found.values()):
            asked = "; ".join(text for found in texts.values() for text in found)
            raise SourceError(
                f"xeno_canto: {self.config.base_url} has no recording that was asked for, by "
                f"{asked:.500}; {_others_that_came(answers)}; {advice}"
            )
        missing = {name: "; ".join(texts[name]) for name, n in n_found.items() if n == 0}
        for name, asked in missing.items():
            _log.warning("xeno_canto: nothing came of %s, by %s; %s", name, asked, advice)
        return [
            Rejection(f"{self.name}/{name}", "none_found", f"{asked}; {advice}")
            for name, asked in missing.items()
        ]


def _others_that_came(answers: Mapping[Query, Sequence[Verdict]]) -> str:
    """Returns in words how many recordings came that were not asked for, and what the first is."""
    came = [said for verdicts in answers.values() for said in verdicts]
    details = [f", the first: {said.detail:.200}" for said in came if isinstance(said, Rejection)]
    n_came = f"{len(came)} recordings came that do not fit" if came else "none came at all"
    return f"{n_came}{''.join(details[:1])}"


def _is_answer(verdict: Verdict) -> bool:
    """Returns whether what came is of what was asked for, be it usable or not."""
    return not (isinstance(verdict, Rejection) and verdict.reason in (OUTSIDE_QUERY, "no_id"))
