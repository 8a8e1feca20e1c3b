"""Text and bytes without the secrets that the environment of this process holds.

A secret is the value of a variable whose name ends in KEY, TOKEN, SECRET or PASSWORD, the password
in a variable that holds an address with one, and whatever stands between `//` and `@` in an
address. It is looked up at each call: a variable may be set late.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus, unquote

__all__ = ["redact", "redact_bytes"]

_NAMES = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
# A password may hold a raw `@`, `/` or `:`, so it ends at the last `@`, but not in the next
# address. Digits and a slash after a host are its port.
_CREDENTIALS = re.compile(
    r"""(?<=://)(?:[^/\s:@]*:(?!\d{1,5}/)(?:(?!://)[^\s"'<>])+|[^/\s]+)(?=@)"""
)
# In a variable of its own a password may hold anything. Where a path holds `@`, both the part of
# the address before it and all up to the last `@` may be the password.
_PASSWORDS = (
    re.compile(r"://[^/\s:@]*:([^/?#]+)@"),
    re.compile(r"://[^/\s:@]*:((?:(?!://).)+)@", re.DOTALL),
)
# Shorter values (`1`, `on`) are switches; to blot them out would spoil every text.
_MIN_LENGTH = 4


def redact(text: str, *addresses: str) -> str:
    """Returns `text` with each secret replaced by `[redacted]`.

    Args:
        text: Any text.
        addresses: Further addresses whose passwords are secrets.

    >>> redact("cannot reach https://me:hunter2@tracking.example/api")
    'cannot reach https://[redacted]@tracking.example/api'
    """
    for secret in _secrets(addresses):
        text = text.replace(secret, "[redacted]")
    return _CREDENTIALS.sub("[redacted]", text)


def redact_bytes(content: bytes) -> bytes:
    """Returns `content` with each secret overwritten by as many asterisks, so that offsets hold."""
    for secret in _secrets():
        found = os.fsencode(secret)
        content = content.replace(found, b"*" * len(found))
    return content


def _secrets(addresses: Iterable[str] = ()) -> list[str]:
    """Returns the secrets as they stand in text and in addresses, longest first.

    The order matters where one secret is the beginning of another.
    """
    values = {value.strip() for name, value in os.environ.items() if _NAMES.search(name)}
    for address in (*os.environ.values(), *addresses):
        values.update(_passwords(address))
    forms = {
        form
        for value in values
        for form in (value, quote(os.fsencode(value), safe=""), quote_plus(os.fsencode(value)))
        if len(value) >= _MIN_LENGTH
    }
    return sorted(forms, key=lambda form: (-len(form), form))


def _passwords(address: str) -> Iterator[str]:
    for pattern in _PASSWORDS:
        for password in pattern.findall(address):
            yield from (password, unquote(password))
