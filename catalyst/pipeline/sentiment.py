"""What a headline's words say about a share, from -1 (bad) to 1 (good).

VADER's rules (negation, emphasis, "but") over a finance lexicon, after a reading of what VADER has no eyes for:
phrases that mean more than their words, amounts whose meaning turns on what they are of ("costs fall"), and two
numbers compared ("7.9 million, against 8.4 million a year before").
"""

import math
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, Final

import numpy as np

from catalyst.pipeline.frame import Floats
from catalyst.pipeline.lexicon import (
    DECREASE_WORDS,
    FINANCE_LEXICON,
    INCREASE_WORDS,
    INVERTING_WORDS,
    PHRASES,
)

_COMPARED_UP, _COMPARED_DOWN = "xcompareup", "xcomparedown"
_INVERTED_GOOD, _INVERTED_BAD = "xturnsgood", "xturnsbad"
_TOKEN_VALENCES: Final = {_COMPARED_UP: 2.0, _COMPARED_DOWN: -2.2, _INVERTED_GOOD: 1.8, _INVERTED_BAD: -2.2}

_TOKEN: Final = re.compile(r"[a-z](?:[a-z'&-]*[a-z])?|\d[\d,.]*|[!?]")
_NUMBER_TOKEN: Final = (
    "xnumber"  # VADER's lexicon knows some numbers as slang (143 is love); a price is none of them
)
_AMOUNT: Final = r"(?<![\d.,])(\d[\d,]*(?:\s?\.\d+)?)\s?(%|[a-z]+)?"
_COMPARISON_PATTERN: Final = re.compile(
    _AMOUNT
    + r"(?:\s+\S+){0,4}?\s*,?\s*(?:as\s+)?(?:compared\s+(?:to|with)|against|versus|vs\.?|from)\s+"
    + r"(?:(?:a|an|the|its|net|loss|profit|of|some|about|around)\s+){0,4}"
    + r"(?:[a-z]{2,3}\s?|\$|€|£)?\s?"
    + _AMOUNT
)
_COMPARISON_WORDS: Final = ("compared", "against", "versus", " vs", "from")
# Which phrases a part of a word may belong to: most headlines need only a few looked for.
_PHRASES_BY_PART: Final = tuple(
    (part, tuple(place for place, phrase in enumerate(PHRASES) if part in phrase[0]))
    for part in sorted({part for phrase in PHRASES for part in phrase[0]})
)
# How far a word of amount looks for what it is an amount of, words to the left and to the right.
_WORDS_LEFT, _WORDS_RIGHT = 4, 3


@cache
def _analyzer() -> Any:
    """VADER with the finance lexicon laid over its own; built at the first use (0.1 s)."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    analyzer.lexicon.update(FINANCE_LEXICON | _TOKEN_VALENCES)
    return analyzer


def score_texts(texts: Sequence[str]) -> Floats:
    """The compound score of each text, in order; an empty one is 0."""
    return np.array([_score(text) for text in texts], dtype=np.float64)


@lru_cache(maxsize=16_384)
def _score(text: str) -> float:
    """Remembered, because every scan of the day reads the morning's headlines again."""
    words = tokenize(text)
    if _SPECIAL_WORDS.isdisjoint(words):
        return _compound(words)
    return float(_analyzer().polarity_scores(" ".join(words))["compound"])


# Words for which VADER has rules of their own; a text without them needs only the three common ones.
_SPECIAL_WORDS: Final = frozenset(
    """! ? but no never so this without doubt least or nor shit bomb ass badass bus yeah kiss die beating kind sort
    just""".split()  # noqa: SIM905  a list to be read, not a list of quoted words
)
_DAMPING: Final = (1.0, 0.95, 0.9)  # a booster or negation one, two or three words before


def _compound(words: list[str]) -> float:
    """VADER's compound of lower-case words none of which is rare: valences, boosters, negations, normalised.

    Source: Hutto and Gilbert, VADER, 2014, and the constants of its package; equal to it to the last digit.
    """
    lexicon, boosters, negations, turn = _vader_rules()
    total = 0.0
    for place, word in enumerate(words):
        if word not in lexicon or word in boosters:
            continue
        valence = lexicon[word]
        for back, damping in enumerate(_DAMPING, 1):
            if place < back or (before := words[place - back]) in lexicon:
                continue
            if before in boosters:
                valence += (boosters[before] if valence >= 0 else -boosters[before]) * damping
            if before in negations or "n't" in before:
                valence *= turn
        total += valence
    return round(total / math.sqrt(total * total + 15), 4)


@cache
def _vader_rules() -> tuple[dict[str, float], dict[str, float], frozenset[str], float]:
    """VADER's lexicon with ours over it, its boosters, its negations, and what a negation multiplies by."""
    from vaderSentiment.vaderSentiment import BOOSTER_DICT, N_SCALAR, NEGATE

    return _analyzer().lexicon, BOOSTER_DICT, frozenset(NEGATE), N_SCALAR


def tokenize(text: str) -> list[str]:
    """The words VADER should see: lower case, phrases, comparisons and numbers replaced by tokens of their own."""
    low = text.lower().replace("’", "'")
    if any(word in low for word in _COMPARISON_WORDS):
        low = _COMPARISON_PATTERN.sub(_mark_comparison, low)
    for place in sorted({place for part, places in _PHRASES_BY_PART if part in low for place in places}):
        pattern, token = PHRASES[place][1:]
        low = pattern.sub(token, low)
    return _invert_amount_words(
        [_NUMBER_TOKEN if token[0].isdigit() else token for token in _TOKEN.findall(low)]
    )


def _mark_comparison(found: re.Match[str]) -> str:
    """A comparison of two like amounts, as a word of direction after it; others as they are."""
    now, unit, then, unit_then = found.groups()
    one, other = _parse_number(now), _parse_number(then)
    if one is None or other is None or one == other or (unit or "") != (unit_then or ""):
        return found.group()
    if unit is None and max(one, other) > 1900:  # years, levels
        return found.group()
    return f"{found.group()} {_COMPARED_UP if one > other else _COMPARED_DOWN} "


def _parse_number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").replace(" ", ""))
    except ValueError:
        return None


def _invert_amount_words(words: list[str]) -> list[str]:
    """Turn words of amount round where they are about something one wants less of."""
    if INVERTING_WORDS.isdisjoint(words):
        return words
    out = list(words)
    for place, word in enumerate(words):
        more, less = (
            word in INCREASE_WORDS or word == _COMPARED_UP,
            word in DECREASE_WORDS or word == _COMPARED_DOWN,
        )
        if not (more or less):
            continue
        around = words[max(place - _WORDS_LEFT, 0) : place] + words[place + 1 : place + 1 + _WORDS_RIGHT]
        about = [near for near in around if near in INVERTING_WORDS]
        if about:
            out[place] = _INVERTED_BAD if more else _INVERTED_GOOD
            out = [
                w if w not in INVERTING_WORDS or abs(i - place) > _WORDS_LEFT else "xamount"
                for i, w in enumerate(out)
            ]
    return out
