"""Values of JSON from outside, which may be of any type: read as what is wanted, or as nothing.

Nothing that a parsed reply may hold makes these functions raise.
"""

import re
from collections.abc import Mapping


def fields(value: object) -> Mapping[str, object]:
    """Returns `value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[object]:
    """Returns `value` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def text(value: object) -> str | None:
    """Returns `value` without white space around it if it is text and holds any, else None.

    >>> text(" great tit "), text(""), text(7)
    ('great tit', None, None)
    """
    return (printable(value).strip() or None) if isinstance(value, str) else None


def printable(words: str) -> str:
    """Returns `words` with `?` for what no file can hold: JSON may spell half a character."""
    return words.encode(errors="replace").decode()


def whole(value: object) -> int | None:
    """Returns the positive whole number that `value` is or spells, else None.

    >>> whole(42), whole("42"), whole(0), whole(4.5), whole(True)
    (42, 42, None, None, None)
    """
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 10**18:
        return value
    return None


def number(value: object) -> float | None:
    """Returns `value` as a float if it is or spells a number, NaN and infinity too, else None.

    >>> number(51.6), number(" -1.5"), number(None), number("north")
    (51.6, -1.5, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
