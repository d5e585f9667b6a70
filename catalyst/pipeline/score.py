"""Stage 6 of 8: one number a candidate, from four components that each lie in [0, 1]."""

import numpy as np
import pandas as pd

from catalyst.config.schema import ScoringConfig
from catalyst.pipeline.frame import Floats, Sieve, numbers, words

_NEUTRAL = 0.5


def score(frame: pd.DataFrame, cfg: ScoringConfig) -> pd.DataFrame:
    """Write the composite of every row that still stands and refuse those below `cfg.min_composite`.

    Reads   frame: side; news_score; agreement, pattern_confidence; momentum_score; volume_score.
    Writes  news_component: news_score, turned round for a short; technical_component: half agreement, half
            pattern confidence; momentum_component: the scan's percentile, turned round for a short;
            volume_component: the scan's; composite, the weighted sum; score_rank.
    A component that is missing (its stage was switched off, nothing known) counts as 0.5.
    """
    sieve = Sieve(frame, "score")
    short = words(frame, "side") == "short"
    heard, moved = _known(frame, "news_score"), _known(frame, "momentum_score")
    parts = {
        "news_component": np.where(short, 1 - heard, heard),
        "technical_component": (_known(frame, "agreement") + _known(frame, "pattern_confidence")) / 2,
        "momentum_component": np.where(short, 1 - moved, moved),
        "volume_component": _known(frame, "volume_score"),
    }
    composite = (
        cfg.news * parts["news_component"]
        + cfg.technical * parts["technical_component"]
        + cfg.momentum * parts["momentum_component"]
        + cfg.volume * parts["volume_component"]
    )
    standing = sieve.standing.copy()
    sieve.refuse(composite < cfg.min_composite, f"composite %.2f below {cfg.min_composite:g}", composite)
    ranks = sieve.keep_best(composite, len(frame), "")
    judged = {name: np.where(standing, part, np.nan) for name, part in parts.items()}
    return sieve.close(**judged, composite=np.where(standing, composite, np.nan), score_rank=ranks)


def _known(frame: pd.DataFrame, name: str) -> Floats:
    values = numbers(frame, name)
    return np.where(np.isfinite(values), np.clip(values, 0.0, 1.0), _NEUTRAL)
