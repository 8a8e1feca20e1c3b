"""The switches of the server: what it does wrong, how often, and to which requests."""

import re
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args, get_type_hints

from pydantic import TypeAdapter

Answer = Literal[
    "503", "429", "500", "401", "403", "400", "404", "html", "truncated", "reset", "stall"
]
Kind = Literal["search", "redirect", "file", "any"]

ODD_KINDS = (
    "int_id",
    "null_fields",
    "missing_fields",
    "extra_fields",
    "blank_also",
    "entities",
    "double_entities",
    "unicode",
    "zero_date",
    "zero_day",
    "long_length",
    "bad_length",
    "odd_time",
    "bad_latitude",
    "slash_urls",
    "named_download",
    "upper_suffix",
    "no_suffix",
    "wrong_suffix",
    "hostile_name",
    "no_licence",
)
"""Odd shapes of a row; `rows` tells what each is."""


@dataclass(frozen=True)
class Trouble:
    """One kind of bad answer, and which requests get it: those of any of the ways below."""

    answer: Answer
    """A status with the body that belongs to it; `html`: a web page with status 200; `truncated`:
    half of what Content-Length states; `reset`: the connection is reset after some bytes; `stall`:
    the answer stops half way for a while."""
    on: Kind = "any"
    """`redirect` is a request that is sent on, `file` one that gets bytes."""
    every: int = 0
    """Every so manyth of these requests."""
    first: int = 0
    """The first so many of these requests."""
    after: int | None = None
    """All of these requests but the first so many."""
    first_try: bool = False
    """The first request for each address; the next one is answered well."""


@dataclass(frozen=True)
class Faults:
    """All switches. The defaults are the mild faults that a real site always has."""

    trouble: tuple[Trouble, ...] = ()
    restricted_share: float = 0.02
    """Recordings of restricted species: no audio, no place; three shapes in turn."""
    removed_share: float = 0.01
    """Recordings that are listed, but withdrawn: their file is 404."""
    odd_rows: int = 2
    """Rows of each of `odd_kinds`, as far as the rows suffice."""
    odd_kinds: tuple[str, ...] = ODD_KINDS
    shift: Literal["none", "duplicate", "insert", "remove"] = "none"
    """What happens between pages 1 and 2 of the first walk through each search. `duplicate`: page
    2 begins with the last row of page 1 in place of its own first. `insert`: a row is uploaded, so
    that the last of page 1 comes again. `remove`: a row is withdrawn, so that one is passed over.
    Later walks are straight."""
    counts: Literal["string", "int"] = "string"
    error_shape: Literal["flat", "nested"] = "flat"
    out_of_range: Literal["clamp", "refuse"] = "clamp"
    """What happens to `per_page` outside 50 to 500 and `page` outside 1 to numPages."""
    unknown_tags: Literal["ignore", "refuse"] = "ignore"
    hops: int = 1
    """Redirects before the audio."""
    redirect_to: str | None = None
    """Where the last redirect leads instead of to the audio."""
    relative_redirects: bool = False
    ranges: bool = True
    """Whether a part of a file can be asked for."""
    etag: bool = True
    edition: int = 0
    """Another number is another sound, and another ETag, for every file."""
    content_length: bool = True
    """Whether files state their length; without it the connection ends with the file."""
    content_type: str | None = None
    """Of files, in place of the right one."""
    reset_after_bytes: int = 1000
    stall_s: float = 30.0
    delay_s: float = 0.0
    """Pause before every answer."""
    max_per_s: int | None = None
    """More requests within a second are a burst: all is refused for `blocked_s`."""
    blocked_s: float = 2.0
    blocked_status: Literal["503", "429", "403"] = "503"
    retry_after: str | None = "1"
    """The Retry-After of a 429; seconds or a date."""
    retry_after_503: str | None = None
    """The same for a 503."""

    def __post_init__(self) -> None:
        unknown = set(self.odd_kinds) - set(ODD_KINDS)
        if unknown:
            raise ValueError(f"no odd rows of kind {sorted(unknown)}; there are {ODD_KINDS}")


CALM = Faults(restricted_share=0.0, removed_share=0.0, odd_rows=0)
"""Nothing wrong at all."""

_WAYS = ("every", "first", "after", "first_try")
_TROUBLE = re.compile(
    rf"(?:(?P<on>{'|'.join(get_args(Kind))})_)?(?P<answer>{'|'.join(get_args(Answer))})"
    rf"_(?P<how>{'|'.join(_WAYS)})"
)


def with_setting(faults: Faults, setting: str) -> Faults:
    """Returns `faults` with a setting such as `503_every=7`, `file_reset_first=2` or `hops=3`.

    Raises:
        ValueError: there is no such switch, or not with such a value.
    """
    name, _, value = setting.partition("=")
    found = _TROUBLE.fullmatch(name)
    if found:
        way = {found["how"]: _read(value, Trouble, found["how"])}
        trouble = Trouble(answer=found["answer"], on=found["on"] or "any", **way)  # type: ignore[arg-type]
        return replace(faults, trouble=(*faults.trouble, trouble))
    names = [field.name for field in fields(Faults) if field.name != "trouble"]
    if name not in names:
        answers, kinds = "|".join(get_args(Answer)), "|".join(get_args(Kind))
        raise ValueError(
            f"no switch {name!r}; there are {', '.join(names)}, and such as 503_every=7 and "
            f"file_reset_first=2: [{kinds}_]{answers}_{'|'.join(_WAYS)}"
        )
    return replace(faults, **{name: _read(value, Faults, name)})  # type: ignore[arg-type]


def _read(value: str, owner: type[Trouble | Faults], name: str) -> object:
    """Returns `value` as the type of a field.

    Raises:
        ValueError: it is no such value.
    """
    plain: object = value.split(",") if name == "odd_kinds" else value
    reader: TypeAdapter[object] = TypeAdapter(get_type_hints(owner)[name])
    return reader.validate_python(None if value == "none" and name != "shift" else plain)
