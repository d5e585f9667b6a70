"""What a headline's words say about a share, from -1 (bad) to 1 (good)."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from catalyst.pipeline.frame import Floats
from catalyst.pipeline.lexicon import FINANCE


@cache
def _analyzer() -> Any:
    """VADER with the finance lexicon laid over its own; built at the first use (0.1 s, 8 MB)."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyzer = SentimentIntensityAnalyzer()
    analyzer.lexicon.update(FINANCE)
    return analyzer


def score_texts(texts: Sequence[str]) -> Floats:
    """The compound score of each text, in order."""
    analyzer = _analyzer()
    return np.array([analyzer.polarity_scores(text)["compound"] for text in texts], dtype=np.float64)
