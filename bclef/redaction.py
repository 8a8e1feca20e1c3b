"""Text and bytes without the secrets that the environment of this process holds.

A secret is the value of a variable whose name ends in KEY, TOKEN, SECRET or PASSWORD, and whatever
stands between `//` and `@` in an address. It is looked up at each call: a variable may be set late.
"""

from __future__ import annotations

import os
import re
from urllib.parse import quote, quote_plus

__all__ = ["redact", "redact_bytes"]

_NAMES = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PASSWORD)$", re.IGNORECASE)
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+(?=@)")
# Shorter values (`1`, `on`) are switches; to blot them out would spoil every text.
_MIN_LENGTH = 4


def redact(text: str) -> str:
    """Returns `text` with each secret replaced by `[redacted]`.

    >>> redact("cannot reach https://me:hunter2@tracking.example/api")
    'cannot reach https://[redacted]@tracking.example/api'
    """
    for secret in _secrets():
        text = text.replace(secret, "[redacted]")
    return _CREDENTIALS.sub("[redacted]", text)


def redact_bytes(content: bytes) -> bytes:
    """Returns `content` with each secret overwritten by as many asterisks, so that offsets hold."""
    for secret in _secrets():
        content = content.replace(secret.encode(), b"*" * len(secret.encode()))
    return content


def _secrets() -> list[str]:
    """Returns the secrets as they stand in text and in addresses, longest first.

    The order matters where one secret is the beginning of another.
    """
    values = {
        value.strip()
        for name, value in os.environ.items()
        if _NAMES.search(name) and len(value.strip()) >= _MIN_LENGTH
    }
    forms = {form for value in values for form in (value, quote(value, safe=""), quote_plus(value))}
    return sorted(forms, key=lambda form: (-len(form), form))
