"""What a headline's words say about a share, from -1 (bad) to 1 (good).

VADER's rules (negation, emphasis, "but") over a finance lexicon, after a reading of what VADER has no eyes for:
phrases that mean more than their words, amounts whose meaning turns on what they are of ("costs fall"), and two
numbers compared ("7.9 million, against 8.4 million a year before").
"""

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Final

import numpy as np

from catalyst.pipeline.frame import Floats
from catalyst.pipeline.lexicon import FINANCE, FLIPPED, LESS, MORE, PHRASES

_UP, _DOWN = "xcompareup", "xcomparedown"
_GOOD_TURN, _BAD_TURN = "xturnsgood", "xturnsbad"
_TURNS: Final = {_UP: 2.0, _DOWN: -2.2, _GOOD_TURN: 1.8, _BAD_TURN: -2.2}

_TOKEN: Final = re.compile(r"[a-z][a-z'&-]*|\d[\d,.]*|%|[!?]")
_MONEY: Final = r"(?:[a-z]{2,3}\s?|\$|€|£)?\s?(\d[\d,]*(?:\s?\.\d+)?)\s?(%|[a-z]+)?"
_COMPARED: Final = re.compile(
    _MONEY
    + r"(?:\s+\S+){0,4}?\s*,?\s*(?:as\s+)?(?:compared\s+(?:to|with)|against|versus|vs\.?|from)\s+"
    + r"(?:(?:a|an|the|its|net|loss|profit|of|some|about|around)\s+){0,4}"
    + _MONEY
)
_COMPARING: Final = ("compared", "against", "versus", " vs", "from")
# How far a word of amount looks for what it is an amount of, words to the left and to the right.
_LEFT, _RIGHT = 4, 3


@cache
def _analyzer() -> Any:
    """VADER with the finance lexicon laid over its own; built at the first use (0.1 s)."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    analyzer.lexicon.update(FINANCE | _TURNS)
    return analyzer


def score_texts(texts: Sequence[str]) -> Floats:
    """The compound score of each text, in order; an empty one is 0."""
    return np.array([_score(text) for text in texts], dtype=np.float64)


@lru_cache(maxsize=16_384)
def _score(text: str) -> float:
    """Remembered, because every scan of the day reads the morning's headlines again."""
    return float(_analyzer().polarity_scores(read(text))["compound"])


def read(text: str) -> str:
    """The text as VADER should see it: lower case, phrases and comparisons replaced by tokens of their own."""
    low = text.lower().replace("’", "'")
    if any(word in low for word in _COMPARING):
        low = _COMPARED.sub(_compare, low)
    for parts, pattern, token in PHRASES:
        for part in parts:
            if part in low:
                low = pattern.sub(token, low)
                break
    return " ".join(_turn(_TOKEN.findall(low)))


def _compare(found: re.Match[str]) -> str:
    """A comparison of two like amounts, as a word of direction after it; others as they are."""
    now, unit, then, unit_then = found.groups()
    one, other = _number(now), _number(then)
    if one is None or other is None or one == other or (unit or "") != (unit_then or ""):
        return found.group()
    if unit is None and max(one, other) > 1900:  # years, levels
        return found.group()
    return f"{found.group()} {_UP if one > other else _DOWN} "


def _number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").replace(" ", ""))
    except ValueError:
        return None


def _turn(words: list[str]) -> list[str]:
    """Turn words of amount round where they are about something one wants less of."""
    if FLIPPED.isdisjoint(words):
        return words
    out = list(words)
    for place, word in enumerate(words):
        more, less = word in MORE or word == _UP, word in LESS or word == _DOWN
        if not (more or less):
            continue
        around = words[max(place - _LEFT, 0) : place] + words[place + 1 : place + 1 + _RIGHT]
        about = [near for near in around if near in FLIPPED]
        if about:
            out[place] = _BAD_TURN if more else _GOOD_TURN
            out = [w if w not in FLIPPED or abs(i - place) > _LEFT else "xamount" for i, w in enumerate(out)]
    return out
