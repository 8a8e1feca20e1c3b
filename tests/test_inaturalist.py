"""iNaturalist as a source: what is asked, and that runs go on, add up, and end the same."""

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from bclef.config import ConfigError
from bclef.sources.http import HttpConfig
from bclef.sources.inaturalist import FILE_HOSTS, INaturalistConfig, INaturalistSource
from bclef.sources.protocol import (
    FetchError,
    Listing,
    SourceError,
    SourceStoppedError,
)
from bclef.taxonomy import Synonyms
from tests.inaturalist_server import MP3, Site, observation, serving, sound, taxon

SECTION: dict[str, object] = {
    "base_url": "https://api.inaturalist.org",
    "species": ["Turdus merula"],
    "place_id": None,
    "iconic_taxa": None,
    "quality_grade": "research",
    "licences": None,
    "per_page": 200,
    "search_interval_s": 1.0,
    "file_interval_s": 1.0,
    "max_requests": None,
    "update_after_hours": 0.0,
    "refresh_after_days": 30.0,
}
HTTP = HttpConfig(
    contact="tests@example.org", timeout_s=5.0, max_attempts=3, backoff_s=0.0, longest_wait_s=1.0
)
NO_PAUSE: dict[str, object] = {"search_interval_s": 0.0, "file_interval_s": 0.0}
BLACKBIRD, THRUSH = "Turdus merula", "Turdus philomelos"


def over_loopback(test: Callable[..., None]) -> Callable[..., None]:
    return pytest.mark.network(pytest.mark.enable_socket(test))


def config(**changes: object) -> INaturalistConfig:
    return INaturalistConfig.from_tree(SECTION | changes, "params.yaml", "inaturalist")


@pytest.fixture
def listed(tmp_path: Path) -> Callable[..., Listing]:
    """A function that lists what a site has."""

    def listing(site: Site, synonyms: dict[str, str] | None = None, **changes: object) -> Listing:
        with serving(site) as base_url:
            return opened(tmp_path, base_url, synonyms, **changes).list_recordings()

    return listing


def opened(
    folder: Path, base_url: str, synonyms: dict[str, str] | None = None, **changes: object
) -> INaturalistSource:
    section = config(base_url=base_url, **NO_PAUSE, **changes)
    return INaturalistSource(section, HTTP, folder / "searches", Synonyms(synonyms or {}))


def reasons(listing: Listing) -> list[tuple[str, str]]:
    rejected = listing.rejected
    return list(zip(rejected["recording_id"], rejected["reason"], strict=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"species": ["Turdus"]}, "species"),
        ({"species": []}, "species"),
        ({"search_interval_s": 0.5}, "search_interval_s below 1 s"),
        ({"file_interval_s": 0.0}, "file_interval_s below 1 s"),
        ({"base_url": "api.inaturalist.org"}, "base_url"),
        ({"base_url": "https://api.inaturalist.org/v1"}, "base_url"),
        ({"licences": ["unknown"]}, "licences"),
        ({"per_page": 201}, "per_page"),
        ({"quality_grade": "casual"}, "quality_grade"),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(**changes)


def test_the_whole_world_is_not_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="species and place_id are both null"):
        opened(tmp_path, "http://localhost:1", species=None).list_recordings()


def test_a_server_on_this_machine_needs_no_pause() -> None:
    assert config(base_url="http://localhost:8080/", **NO_PAUSE).base_url == "http://localhost:8080"


@over_loopback
def test_450_observations_arrive_once_each(listed: Callable[..., Listing]) -> None:
    numbers = [*range(1, 301), *range(20_001, 20_151)]
    site = Site([observation(number) for number in numbers])
    recordings = listed(site).recordings
    assert sorted(recordings["recording_id"]) == sorted(f"iNat{10 * n}" for n in numbers)
    assert [query["id_above"] for query in site.searches] == ["0", "200", "20100", "20150"]
    first = {name: value for name, value in site.searches[0].items() if name != "id_above"}
    assert first == {
        "taxon_name": BLACKBIRD,
        "sounds": "true",
        "quality_grade": "research",
        "per_page": "200",
        "order_by": "id",
        "order": "asc",
    }
    assert "tests@example.org" in site.requests[0].headers["User-Agent"]


@over_loopback
@pytest.mark.slow
def test_more_than_the_window_of_pages_arrive(listed: Callable[..., Listing]) -> None:
    site = Site([observation(number) for number in range(1, 10_402)])
    assert len(listed(site).recordings) == 10_401


@over_loopback
def test_everything_that_params_ask_for_is_asked_and_null_is_not(
    listed: Callable[..., Listing],
) -> None:
    frog = taxon("Rana temporaria", iconic="Amphibia")
    site = Site([observation(1), observation(2, taxon=frog), observation(3, place_ids=[2])])
    place = {"species": None, "place_id": 6857, "quality_grade": "any"}
    found = listed(site, **place).recordings
    assert sorted(found["scientific_name"]) == ["Rana temporaria", BLACKBIRD]
    assert site.searches[0].keys() == {
        "sounds", "place_id", "per_page", "order_by", "order", "id_above",
    }  # fmt: skip
    site.requests.clear()
    found = listed(site, **place, iconic_taxa=["Amphibia"], licences=["CC0", "CC-BY"]).recordings
    assert list(found["taxon_class"]) == ["Amphibia"]
    assert site.searches[0]["sound_license"] == "cc-by,cc0"


@over_loopback
def test_synonyms_are_asked_for_and_what_else_has_that_name_is_not_listed(
    listed: Callable[..., Listing],
) -> None:
    tit = "Parus caeruleus"
    names = {"Cyanistes caeruleus": [tit], "Cyanistes teneriffae": ["Parus caeruleus teneriffae"]}
    site = Site(
        [
            observation(1, taxon=taxon("Cyanistes caeruleus")),
            observation(2, taxon=taxon("Cyanistes caeruleus obscurus", "subspecies")),
            observation(3, taxon=taxon("Cyanistes teneriffae")),
            observation(4),
        ],
        other_names=names,
    )
    listing = listed(site, {tit: "Cyanistes caeruleus"}, species=[tit])
    assert list(listing.recordings["recording_id"]) == ["iNat10", "iNat20"]
    assert set(listing.recordings["scientific_name"]) == {"Cyanistes caeruleus"}
    assert reasons(listing) == [("iNat30", "species_not_asked_for")]
    asked = {query["taxon_name"] for query in site.searches}
    assert asked == {tit, "Cyanistes caeruleus"}


@over_loopback
def test_a_species_without_sounds_is_a_row_and_none_at_all_an_error(
    listed: Callable[..., Listing], caplog: pytest.LogCaptureFixture
) -> None:
    site = Site([observation(1)])
    listing = listed(site, species=[BLACKBIRD, THRUSH])
    assert reasons(listing) == [(f"inaturalist/{THRUSH}", "none_found")]
    (warning,) = [said for said in caplog.records if said.levelname == "WARNING"]
    assert THRUSH in warning.getMessage()
    assert "taxonomy/synonyms.csv" in warning.getMessage()
    with pytest.raises(SourceError, match=rf"{THRUSH}; none came at all.*inaturalist\.species"):
        listed(site, species=[THRUSH])
    with pytest.raises(SourceError, match=r"place_id=9.*inaturalist\.place_id") as caught:
        listed(site, species=None, place_id=9)
    assert "synonyms" not in str(caught.value)


@over_loopback
def test_a_wrong_address_is_named_with_the_param_it_comes_from(tmp_path: Path) -> None:
    not_found = (404, {"Content-Type": "text/html"}, b"<html>404 Not Found</html>")
    said = "/v1/observations, see inaturalist.base_url"
    with serving(Site([observation(1)], refusals=[not_found])) as base_url:
        with pytest.raises(SourceError, match=base_url) as caught:
            opened(tmp_path, base_url).list_recordings()
        assert str(caught.value).endswith(said)
    with pytest.raises(SourceStoppedError, match=base_url) as stopped:
        opened(tmp_path, base_url).list_recordings()
    assert said in str(stopped.value)


@over_loopback
def test_a_later_run_asks_for_what_is_new_or_has_changed(tmp_path: Path) -> None:
    site = Site([observation(number) for number in (100, 300)])
    with serving(site) as base_url:
        first = opened(tmp_path, base_url).list_recordings()
        # 200 is old and has been agreed on just now, 300 is known under another species now.
        now = {"updated_at": datetime.now(UTC).isoformat()}
        site.observations[1] = observation(300, taxon=taxon("Turdus merula merula"), **now)
        site.observations += [observation(200, **now), observation(400, **now)]
        site.requests.clear()
        second = opened(tmp_path, base_url).list_recordings()
        assert len(first.recordings) == 2
        assert sorted(second.recordings["recording_id"]) == [
            "iNat1000", "iNat2000", "iNat3000", "iNat4000",
        ]  # fmt: skip
        yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
        assert [query.get("updated_since") for query in site.searches] == [yesterday] * 2
        again = opened(tmp_path, base_url).list_recordings()
        pd.testing.assert_frame_equal(second.recordings, again.recordings)
        site.requests.clear()
        opened(tmp_path, base_url, update_after_hours=1.0).list_recordings()
        assert not site.requests


@over_loopback
def test_a_refresh_asks_for_everything_and_forgets_what_is_gone(tmp_path: Path) -> None:
    site = Site([observation(1), observation(2)])
    with serving(site) as base_url:
        opened(tmp_path, base_url).list_recordings()
        del site.observations[0]
        kept = opened(tmp_path, base_url).list_recordings()
        fresh = opened(tmp_path, base_url, refresh_after_days=0.0).list_recordings()
    assert list(kept.recordings["recording_id"]) == ["iNat10", "iNat20"]
    assert list(fresh.recordings["recording_id"]) == ["iNat20"]


@over_loopback
@pytest.mark.parametrize("number", [1, 3])
def test_a_walk_that_ends_before_its_number_is_asked_again_in_whole(
    number: int, tmp_path: Path
) -> None:
    site = Site([observation(number) for number in range(1, 451)])
    nothing: tuple[int, dict[str, str], bytes] = (
        200,
        {},
        json.dumps({"total_results": 450, "results": []}).encode(),
    )
    with serving(site) as base_url:
        site.before_reply = lambda n: site.refusals.append(nothing) if n == number else None
        if number == 1:
            with pytest.raises(SourceError):
                opened(tmp_path, base_url).list_recordings()
        else:
            assert len(opened(tmp_path, base_url).list_recordings().recordings) == 400
        site.before_reply = None
        assert len(opened(tmp_path, base_url).list_recordings().recordings) == 450
        n_asked = len(site.requests)
        opened(tmp_path, base_url, update_after_hours=12.0).list_recordings()
        assert len(site.requests) == n_asked


@over_loopback
def test_a_run_whose_requests_are_spent_is_gone_on_with(tmp_path: Path) -> None:
    site = Site([observation(number) for number in range(1, 451)])
    with serving(site) as base_url:
        with pytest.raises(SourceStoppedError):
            opened(tmp_path, base_url, max_requests=2).list_recordings()
        recordings = opened(tmp_path, base_url).list_recordings().recordings
    assert recordings["recording_id"].nunique() == len(recordings) == 450
    assert [query["id_above"] for query in site.searches] == ["0", "200", "400", "450"]


@over_loopback
@pytest.mark.slow
def test_a_killed_listing_goes_on_where_it_was_and_ends_the_same(tmp_path: Path) -> None:
    site = Site([observation(number) for number in range(1, 451)])
    script = (
        "import pickle, sys; source = pickle.loads(sys.stdin.buffer.read());"
        "source.list_recordings()"
    )
    with serving(site) as base_url:
        source = opened(tmp_path, base_url)
        repository = Path(__file__).parents[1]
        with subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, cwd=repository
        ) as victim:

            def kill_at_the_third(number: int) -> None:
                if number == 3:
                    os.kill(victim.pid, signal.SIGKILL)

            site.before_reply = kill_at_the_third
            victim.communicate(pickle.dumps(source))
        assert victim.returncode == -signal.SIGKILL
        assert len(site.requests) == 3
        site.before_reply = None
        recordings = source.list_recordings().recordings
        whole = opened(tmp_path / "whole", base_url).list_recordings().recordings
    assert [query["id_above"] for query in site.searches][3:5] == ["400", "450"]
    pd.testing.assert_frame_equal(recordings, whole)


@over_loopback
def test_a_busy_server_is_asked_again_and_then_left_alone(tmp_path: Path) -> None:
    busy = (429, {"Content-Type": "application/json", "Retry-After": "0"}, b"{}")
    site = Site([observation(1)], refusals=[busy, busy])
    with serving(site) as base_url:
        assert len(opened(tmp_path, base_url).list_recordings().recordings) == 1
        site.refusals += [busy] * 3
        with pytest.raises(SourceStoppedError):
            opened(tmp_path, base_url).list_recordings()


@over_loopback
@pytest.mark.parametrize(
    ("body", "words"),
    [({"error": "x"}, "expected `results`"), ({"results": {}}, "expected `results`")],
)
def test_a_reply_of_another_shape_is_no_empty_page(
    listed: Callable[..., Listing], body: dict[str, object], words: str
) -> None:
    answer = (200, {"Content-Type": "application/json"}, json.dumps(body).encode())
    with pytest.raises(SourceError, match=words):
        listed(Site([observation(1)], refusals=[answer]))


@over_loopback
def test_a_server_deaf_to_id_above_is_not_asked_for_ever(listed: Callable[..., Listing]) -> None:
    with pytest.raises(SourceError, match="none above"):
        listed(Site([observation(1)], is_deaf_to_id_above=True))


@over_loopback
def test_rows_of_strange_shapes_do_not_stop_the_walk(listed: Callable[..., Listing]) -> None:
    bare = {"id": 3, "quality_grade": "research", "sounds": [{}], "taxon": {"name": BLACKBIRD}}
    site = Site([observation(1), bare, observation(None, sounds=[sound(7)]), observation(9)])
    listing = listed(site)
    assert list(listing.recordings["recording_id"]) == ["iNat10", "iNat7", "iNat90"]
    assert reasons(listing) == [("inaturalist/observation/3/1", "no_id")]


@over_loopback
def test_files_come_from_the_address_of_the_listing(tmp_path: Path) -> None:
    with serving(Site([observation(1)])) as base_url:
        source = opened(tmp_path, base_url)
        [url] = source.list_recordings().recordings["url"]
        source = pickle.loads(pickle.dumps(source))  # noqa: S301  our own bytes
        assert url == f"{base_url}/sounds/10.mp3"
        source.fetch(url, tmp_path / "10.mp3", 1000)
        assert (tmp_path / "10.mp3").read_bytes() == MP3
        pickle.dumps(source)
        with pytest.raises(FetchError) as gone:
            source.fetch(f"{base_url}/sounds/none", tmp_path / "none", 1000)
        assert gone.value.reason == "gone"
        with pytest.raises(FetchError) as elsewhere:
            source.fetch(f"https://{FILE_HOSTS[0]}/sounds/1.mp3", tmp_path / "one", 1000)
        assert elsewhere.value.reason == "bad_url"
