"""Sentiment of headlines about a share, from -1 (bad) to 1 (good).

Uses VADER's rules (negation, emphasis, "but") with a finance lexicon. Before that it replaces text that VADER does not
understand: phrases with a meaning of their own, amount words whose meaning depends on their subject ("costs fall"), and
comparisons of two numbers ("7.9 million, against 8.4 million a year before").
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
# VADER's lexicon has some numbers as slang (143 is love), so every number is replaced by this word.
_NUMBER_PLACEHOLDER: Final = "xnumber"
_AMOUNT: Final = r"(?<![\d.,])(\d[\d,]*(?:\s?\.\d+)?)\s?(%|[a-z]+)?"
_COMPARISON_PATTERN: Final = re.compile(
    _AMOUNT
    + r"(?:\s+\S+){0,4}?\s*,?\s*(?:as\s+)?(?:compared\s+(?:to|with)|against|versus|vs\.?|from)\s+"
    + r"(?:(?:a|an|the|its|net|loss|profit|of|some|about|around)\s+){0,4}"
    + r"(?:[a-z]{2,3}\s?|\$|€|£)?\s?"
    + _AMOUNT
)
_COMPARISON_WORDS: Final = ("compared", "against", "versus", " vs", "from")
# The phrases that need each part of a word, so that a headline is searched only for a few of them.
_PHRASES_BY_PART: Final = tuple(
    (part, tuple(place for place, phrase in enumerate(PHRASES) if part in phrase[0]))
    for part in sorted({part for phrase in PHRASES for part in phrase[0]})
)
# The number of words to the left and right of an amount word in which its subject is searched.
_WORDS_LEFT, _WORDS_RIGHT = 4, 3


@cache
def _analyzer() -> Any:
    """Return VADER's analyzer with the finance lexicon added; created at the first use (0.1 s)."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    analyzer.lexicon.update(FINANCE_LEXICON | _TOKEN_VALENCES)
    return analyzer


def score_texts(texts: Sequence[str]) -> Floats:
    """Return the compound score of each text, in order; an empty text scores 0."""
    return np.array([_score(text) for text in texts], dtype=np.float64)


@lru_cache(maxsize=16_384)
def _score(text: str) -> float:
    """Score one text; cached, because every scan of the day reads the morning's headlines again."""
    words = tokenize(text)
    if _SPECIAL_WORDS.isdisjoint(words):
        return _compound(words)
    return float(_analyzer().polarity_scores(" ".join(words))["compound"])


# Words with special rules in VADER; a text without them needs only the three common rules.
_SPECIAL_WORDS: Final = frozenset(
    """! ? but no never so this without doubt least or nor shit bomb ass badass bus yeah kiss die beating kind sort
    just""".split()  # noqa: SIM905  easier to read than quoted words
)
_DAMPING: Final = (1.0, 0.95, 0.9)  # for a booster or negation one, two or three words before


def _compound(words: list[str]) -> float:
    """Return VADER's compound score of lower-case words without special words: valences, boosters and negations.

    Source: Hutto and Gilbert, VADER, 2014, and the constants of its package; equal to VADER's result to the last digit.
    """
    lexicon, boosters, negations, negation_factor = _vader_rules()
    total = 0.0
    for place, word in enumerate(words):
        if word not in lexicon or word in boosters:
            continue
        valence = lexicon[word]
        for distance, damping in enumerate(_DAMPING, 1):
            if place < distance or (before := words[place - distance]) in lexicon:
                continue
            if before in boosters:
                valence += (boosters[before] if valence >= 0 else -boosters[before]) * damping
            if before in negations or "n't" in before:
                valence *= negation_factor
        total += valence
    return round(total / math.sqrt(total * total + 15), 4)


@cache
def _vader_rules() -> tuple[dict[str, float], dict[str, float], frozenset[str], float]:
    """Return VADER's lexicon with ours added, its boosters, its negations, and the factor of a negation."""
    from vaderSentiment.vaderSentiment import BOOSTER_DICT, N_SCALAR, NEGATE

    return _analyzer().lexicon, BOOSTER_DICT, frozenset(NEGATE), N_SCALAR


def tokenize(text: str) -> list[str]:
    """Return the words for VADER in lower case, with phrases, comparisons and numbers replaced by tokens."""
    lowered = text.lower().replace("’", "'")
    if any(word in lowered for word in _COMPARISON_WORDS):
        lowered = _COMPARISON_PATTERN.sub(_mark_comparison, lowered)
    for place in sorted({place for part, places in _PHRASES_BY_PART if part in lowered for place in places}):
        pattern, token = PHRASES[place][1:]
        lowered = pattern.sub(token, lowered)
    return _invert_amount_words(
        [_NUMBER_PLACEHOLDER if token[0].isdigit() else token for token in _TOKEN.findall(lowered)]
    )


def _mark_comparison(found: re.Match[str]) -> str:
    """Add an up or down token after a comparison of two amounts of one unit; leave other text unchanged."""
    first_text, first_unit, second_text, second_unit = found.groups()
    first, second = _parse_number(first_text), _parse_number(second_text)
    if first is None or second is None or first == second or (first_unit or "") != (second_unit or ""):
        return found.group()
    if first_unit is None and max(first, second) > 1900:  # years, index levels
        return found.group()
    return f"{found.group()} {_COMPARED_UP if first > second else _COMPARED_DOWN} "


def _parse_number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").replace(" ", ""))
    except ValueError:
        return None


def _invert_amount_words(words: list[str]) -> list[str]:
    """Replace amount words near a subject of which less is better by a good or bad token."""
    if INVERTING_WORDS.isdisjoint(words):
        return words
    out = list(words)
    for place, word in enumerate(words):
        is_increase, is_decrease = (
            word in INCREASE_WORDS or word == _COMPARED_UP,
            word in DECREASE_WORDS or word == _COMPARED_DOWN,
        )
        if not (is_increase or is_decrease):
            continue
        nearby = words[max(place - _WORDS_LEFT, 0) : place] + words[place + 1 : place + 1 + _WORDS_RIGHT]
        subjects = [word_near for word_near in nearby if word_near in INVERTING_WORDS]
        if subjects:
            out[place] = _INVERTED_BAD if is_increase else _INVERTED_GOOD
            out = [
                w if w not in INVERTING_WORDS or abs(i - place) > _WORDS_LEFT else "xamount"
                for i, w in enumerate(out)
            ]
    return out
