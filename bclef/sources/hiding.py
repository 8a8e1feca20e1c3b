"""Keeps the secrets of a request, such as a key in its query, out of texts and logs."""

import html
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from html.entities import html5
from urllib.parse import unquote, unquote_plus

# They write the path of each request, query included, at level DEBUG or with a warning.
_LOGGERS = ("urllib3.connectionpool", "urllib3.connection", "urllib3.util.retry")
_HIDDEN = "[hidden]"
# A shorter secret may occur in data by chance, and to blot it out would spoil them.
_MIN_CHARS_IN_DATA = 8
# Entities of HTML, which may be escaped again, and quoted as in addresses.
_HASH, _END = "(?:#|%(?:25)*23)", "(?:;|%(?:25)*3b)"
_AMPERSAND = f"(?:&|%(?:25)*26)(?:(?:amp|{_HASH}0*38|{_HASH}x0*26){_END})*"
_BLANK_ENTITY = rf"(?:nbsp|{_HASH}0*(?:32|9|10|13|43)|{_HASH}x0*(?:20|9|a|d|2b))"
_BLANKS = (
    r"(?:[\s+\0-\x20\x7f-\x9f]"
    rf"|(?i:%(?:25)*(?:20|09|0a|0d|2b)|{_AMPERSAND}{_BLANK_ENTITY}{_END}?))+"
)


class Hider(logging.Filter):
    """Knows the secrets of one client; as a filter it takes them out of the HTTP library's logs."""

    def __init__(self) -> None:
        super().__init__()
        self._patterns: dict[str, re.Pattern[str]] = {}

    def learn(self, secrets: Mapping[str, str]) -> None:
        """Adds the values of `secrets` to what is hidden, and watches the logs from now on."""
        for form in (form for secret in secrets.values() for form in _forms(secret)):
            if form not in self._patterns:
                self._patterns[form] = _pattern(form)
        # The longest first: one secret may be the beginning of another.
        self._patterns = dict(sorted(self._patterns.items(), key=lambda item: -len(item[0])))
        for name in _LOGGERS if self._patterns else ():
            logging.getLogger(name).addFilter(self)

    def forget(self) -> None:
        """Leaves the logs alone again."""
        for name in _LOGGERS:
            logging.getLogger(name).removeFilter(self)

    def hide(self, text: str) -> str:
        """Returns `text` without secrets, however they are quoted in it."""
        return _without(text, self._patterns.values())

    def hide_in(self, tree: object) -> object:
        """Returns a JSON value without secrets in its texts."""
        return _in_texts(tree, self.hide)

    def hide_long_in(self, tree: object) -> object:
        """Returns a JSON value that is kept as data: without secrets of 8 characters or more."""
        patterns = [
            pattern
            for secret, pattern in self._patterns.items()
            if len(secret) >= _MIN_CHARS_IN_DATA
        ]
        return _in_texts(tree, lambda text: _without(text, patterns))

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record pass, without secrets; its traceback goes, as it may hold them."""
        record.msg, record.args = self.hide(record.getMessage()), None
        record.exc_info = record.exc_text = None
        return True


def _without(text: str, patterns: Iterable[re.Pattern[str]]) -> str:
    for pattern in patterns:
        text = pattern.sub(_HIDDEN, text)
    return text


def _in_texts(tree: object, change: Callable[[str], str], n_levels: int = 100) -> object:
    """Returns a JSON value with each text in it changed; deeper than `n_levels` it is cut off."""
    if isinstance(tree, str):
        return change(tree)
    if isinstance(tree, list | dict) and n_levels == 0:
        return None
    if isinstance(tree, list):
        return [_in_texts(item, change, n_levels - 1) for item in tree]
    if isinstance(tree, dict):
        return {change(key): _in_texts(item, change, n_levels - 1) for key, item in tree.items()}
    return tree


def _forms(secret: str) -> set[str]:
    """Returns what a server may make of a secret that itself looks quoted, and the secret."""
    forms = (secret, unquote(secret), unquote_plus(secret), html.unescape(secret))
    return {form.strip() for form in forms} - {""}


def _pattern(secret: str) -> re.Pattern[str]:
    """Returns what finds `secret`, each character of it as it is, or as addresses or HTML have it.

    White space of any kind and length stands for any other.
    """
    words = ("".join(map(_character, word)) for word in secret.split())
    return re.compile(_BLANKS.join(words))


def _character(character: str) -> str:
    """Returns a pattern for a character that is no white space."""
    code = ord(character)
    names = [name.removesuffix(";") for name, meaning in html5.items() if meaning == character]
    quoted = "".join(f"%(?:25)*{byte:02x}" for byte in character.encode("utf-8", "surrogatepass"))
    entities = "|".join([f"{_HASH}0*{code}", f"{_HASH}x0*{code:x}", *map(re.escape, names)])
    # The first is by far the most frequent; the end of an entity may be missing.
    return f"(?:{re.escape(character)}|(?i:{quoted}|{_AMPERSAND}(?:{entities}){_END}?))"
