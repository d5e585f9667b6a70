"""Secret mask: replaces every spelling of the process's secrets in text that leaves the process.

Log lines, stderr, tracebacks, rows, alerts, reports and files use one function, `mask_text`.
"""

import base64
import html
import re
from collections.abc import Iterable
from datetime import date
from ipaddress import ip_address
from numbers import Number
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, unquote_plus

MASK: Final = "***"
MIN_SECRET_LENGTH: Final = 6  # characters; masking shorter secrets would hide ordinary words
MIN_CUT_LENGTH: Final = 8  # characters of a secret that a cut text shows last
MAX_WORD_LENGTH: Final = 12  # characters; a secret of letters or digits alone may be a common word or number
MIN_URL_PART_LENGTH: Final = 8  # characters; shorter parts of a messenger's URL are words like "bot" or "v2"

# Fields of JSON that the daemon reads back, such as an order's: their values are never text from outside.
EXACT_FIELDS: Final = frozenset(
    {"account_id", "at", "broker_id", "by", "client_order_id", "entry", "hash", "kind", "name", "origin", "outcome",
     "position_side", "proposal_id", "purpose", "quantity", "risk", "side", "stop", "symbol", "target"}
)  # fmt: skip

_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]+")  # characters that every encoding leaves as they are
_PIECES: Final = re.compile(r"[/#?\[\]@:%\s\"'\\]+")
_URL_PASSWORD: Final = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@\",]*:)(?!password@)[^\s/@\",]+(?=@)")
_WORD: Final = re.compile(r"[A-Za-z]+|[0-9]+")
_PUBLIC_WORDS: Final = frozenset({"catalyst", "localhost", "password", "postgres", "postgresql"})
_CONTROLS: Final = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f", "\v": "v", "\a": "a"}
_BACKSLASH: Final = r"(?:\\|%(?:25)*5c)"
_BACKSLASHES: Final = (
    "{0,16}"  # one or more times escaped; without a bound a long run of them takes quadratic time
)
_BASE64: Final = re.compile(r"[A-Za-z0-9+/=_-]*")
_BASE64_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=_-")
_END_OF_CUT: Final = " .…'\")]}\n"


class SecretMask:
    """Finds each secret as it is, escaped (repr, JSON, HTML), URL-encoded, in base64, and cut off at a text's end."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = sorted(
            {text for text in secrets if len(text) >= MIN_SECRET_LENGTH}, key=len, reverse=True
        )
        # A pattern runs only on a text that contains its probe, which is part of every match.
        self._patterns = [(_longest_run(text), re.compile(_pattern(text))) for text in self._secrets]
        self._middles = [
            (_longest_run(middle), re.compile(_either_alphabet(middle)))
            for text in self._secrets
            for middle in _base64_middles(text)
        ]
        starts = {text[:MIN_CUT_LENGTH] for text in self._secrets}
        probes = [probe for probe, _ in (*self._patterns, *self._middles)]
        runs = {probe for probe in probes if not any(start in probe for start in starts)}
        self._probes = (*runs, *starts, "://")

    def may_contain_secret(self, text: str) -> bool:
        """Return false when the text certainly contains no secret; costs a microsecond."""
        for probe in self._probes:  # noqa: SIM110 - any() takes twice as long, and every log line pays it
            if probe in text:
                return True
        return False

    def apply(self, text: str) -> str:
        """Return the text with `***` in place of each secret and of the password of each URL."""
        for probe, pattern in self._patterns:
            if probe in text:
                text = pattern.sub(MASK, text)
        for probe, middle in self._middles:
            if probe in text:
                text = _mask_base64(middle, text)
        for secret in self._secrets:
            if secret[:MIN_CUT_LENGTH] in text and not _is_word(secret):
                text = _mask_cut(secret, text)
        return _URL_PASSWORD.sub(rf"\1{MASK}", text) if "://" in text else text


def _is_word(text: str) -> bool:
    return len(text) < MAX_WORD_LENGTH and _WORD.fullmatch(text) is not None


def _pattern(text: str) -> str:
    """Return a pattern of every spelling of a secret; of a word only where it is no part of a path or a name."""
    spelled = "".join(map(_spellings, text))
    return rf"(?:(?<=\\[nrt])|(?<![\w/.~-])){spelled}(?![\w/~-]|\.\w)" if _is_word(text) else spelled


def _longest_run(text: str) -> str:
    return max(_UNRESERVED.findall(text), key=len, default="")


def _spellings(character: str) -> str:
    """Return a pattern of every spelling of one character, also escaped or encoded twice."""
    if _UNRESERVED.fullmatch(character):
        return re.escape(character)
    raw = character.encode("utf-8", "surrogatepass")
    utf16 = character.encode("utf-16-be", "surrogatepass")
    code = ord(character)
    percent = "".join(f"%(?:25)*{byte:02x}" for byte in raw)
    entities = [f"#0*{code}", f"#x0*{code:x}"]
    if (entity := html.escape(character)) != character:
        entities.append(entity.strip("&;"))
    forms = [
        f"{_BACKSLASH}{_BACKSLASHES}(?:{re.escape(character)}|{percent}|{_entity('|'.join(entities))})",
        "".join(rf"{_BACKSLASH}{{1,16}}x{byte:02x}" for byte in raw),
        "".join(rf"{_BACKSLASH}{{1,16}}u{utf16[n : n + 2].hex()}" for n in range(0, len(utf16), 2)),
        rf"{_BACKSLASH}{{1,16}}U{code:08x}",
    ]
    if code < 0x100:
        forms.append(rf"{_BACKSLASH}{{1,16}}x{code:02x}")
    if character in _CONTROLS:
        forms.append(_BACKSLASH + "{1,16}" + _CONTROLS[character])
    if character == " ":
        forms.append(r"\+|%(?:25)*2b")
    return f"(?i:{'|'.join(forms)})"


def _entity(names: str) -> str:
    """Return a pattern of an HTML entity, also when it was escaped or URL-encoded again."""
    names = names.replace("#", "(?:#|%(?:25)*23)")
    return f"(?:&|%(?:25)*26)(?:amp(?:;|%(?:25)*3b))*(?:{names})(?:;|%(?:25)*3b)"


def _base64_middles(text: str) -> Iterable[str]:
    """Yield, for each of the three alignments, the base64 characters that depend on the secret alone."""
    raw = text.encode("utf-8", "surrogatepass")
    for offset in range(3):
        encoded = base64.b64encode(b"\0" * offset + raw).decode()
        middle = encoded[-(-offset * 8 // 6) : (offset + len(raw)) * 8 // 6]
        yield middle


def _either_alphabet(middle: str) -> str:
    """Return a pattern of a base64 text in the standard and in the URL alphabet."""
    return re.escape(middle).replace(r"\+", "(?:[+-]|%2[Bb])").replace("/", r"(?:\\*/|_|%2[Ff])")


def _mask_base64(middle: re.Pattern[str], text: str) -> str:
    """Mask each base64 text around a match; its ends are found by steps, because a pattern takes quadratic time."""
    parts, end = [], 0
    while (found := middle.search(text, end)) is not None:
        start = found.start()
        while start > end and text[start - 1] in _BASE64_CHARACTERS:
            start -= 1
        parts += [text[end:start], MASK]
        rest = _BASE64.match(text, found.end())
        end = found.end() if rest is None else rest.end()
    return "".join((*parts, text[end:]))


def _mask_cut(secret: str, text: str) -> str:
    """Mask the first part of a secret at the end of a text that was cut."""
    body = text.rstrip(_END_OF_CUT)
    for length in range(len(secret) - 1, MIN_CUT_LENGTH - 1, -1):
        if body.endswith(secret[:length]):
            return f"{body[:-length]}{MASK}{text[len(body) :]}"
    return text


def url_secrets(url: str) -> set[str]:
    """Return the secret parts of a URL, also when its password is not percent-encoded; all of it when it is no URL."""
    _, separator, rest = url.partition("://")
    if not separator:
        return {url}
    query = rest.partition("?")[2]
    secrets = {value for name, value in parse_qsl(query) if "password" in name.lower()}
    user, has_password, password = rest.rpartition("@")[0].partition(":")
    if has_password:
        decoded = {password, unquote(password), unquote_plus(password)}
        secrets |= decoded | {piece for text in decoded for piece in _PIECES.split(text)}
    # A password that is also a name is hidden inside a URL only: elsewhere it is that name.
    database = rest.rpartition("@")[2].partition("?")[0].rpartition("/")[2]
    return secrets - {"", user, database} - _PUBLIC_WORDS


def messenger_secrets(urls: str) -> set[str]:
    """Return the secrets of the messengers' URLs, separated by commas or blanks: each URL, and its parts."""
    secrets: set[str] = set()
    for url in re.split(r"[\s,]+", urls):
        rest = url.partition("://")[2] or url
        before, _, address = rest.rpartition("@") if "@" in rest.partition("?")[0] else ("", "", rest)
        password = before.partition(":")[2]
        path, _, query = address.partition("?")
        parts = {rest, before, before.partition(":")[0], *path.split("/"), *re.split("[/:]", path)}
        parts |= {value for _, value in parse_qsl(query)}
        parts |= {unquote(part) for part in parts}
        secrets |= {url, password, unquote(password)}
        secrets |= {part for part in parts if len(part) >= MIN_URL_PART_LENGTH and not _is_own_address(part)}
    return secrets - {""} - _PUBLIC_WORDS


def _is_own_address(part: str) -> bool:
    """Return true for the name or a number of this machine or of its network, with or without a port."""
    host = re.split("[/:?]", part)[0]
    try:
        return host == "localhost" or ip_address(host).is_private
    except ValueError:
        return False


_known_secrets: set[str] = set()
_process_mask = SecretMask()


def add_secrets(secrets: Iterable[str]) -> None:
    """Let `mask_text` mask these secrets too, until the process ends."""
    global _process_mask  # noqa: PLW0603 - the secrets belong to the process, and every way out must know them
    new = set(secrets) - _known_secrets
    if new:
        _known_secrets.update(new)
        _process_mask = SecretMask(_known_secrets)


def forget_secrets() -> None:
    """Mask no secret any more; for tests, which share a process."""
    global _process_mask  # noqa: PLW0603 - as in add_secrets
    _known_secrets.clear()
    _process_mask = SecretMask()


def may_contain_secret(text: str) -> bool:
    """Return false when the text certainly contains no secret of this process."""
    return _process_mask.may_contain_secret(text)


def mask_text(text: str) -> str:
    """Return the text with `***` in place of each secret of this process."""
    return _process_mask.apply(text)


def mask_value(value: Any) -> Any:
    """Return a value with every text in it masked, but no key and no value of an exact field; an object that is no
    plain value becomes its masked text."""
    match value:
        case str():
            return mask_text(value)
        case dict():
            return {
                key: inner if key in EXACT_FIELDS and isinstance(inner, str) else mask_value(inner)
                for key, inner in value.items()
            }
        case list() | tuple() | set() | frozenset():
            return [mask_value(inner) for inner in value]
        case None | Number() | date():
            return value
        case _:
            shown = str(value)
            return mask_text(shown) if may_contain_secret(shown) else value
