"""Stage 6 of 8: one number a candidate, from four components that each lie in [0, 1]."""

import numpy as np
import pandas as pd

from catalyst.config.schema import ScoringConfig
from catalyst.pipeline.frame import Floats, StageFilter, float_values, text_values

_NEUTRAL = 0.5


def score(frame: pd.DataFrame, cfg: ScoringConfig) -> pd.DataFrame:
    """Write the composite of every row that still stands and refuse those below `cfg.min_composite`.

    Reads   frame: side; news_score; agreement, pattern_confidence; momentum_score; volume_score.
    Writes  news_component: news_score, turned round for a short; technical_component: half agreement, half
            pattern confidence; momentum_component: the scan's percentile, turned round for a short;
            volume_component: the scan's; composite, the weighted sum; score_rank.
    A component that is missing (its stage was switched off, nothing known) counts as 0.5.
    """
    sieve = StageFilter(frame, "score")
    short = text_values(frame, "side") == "short"
    news, moved = _value_or_neutral(frame, "news_score"), _value_or_neutral(frame, "momentum_score")
    parts = {
        "news_component": np.where(short, 1 - news, news),
        "technical_component": (
            _value_or_neutral(frame, "agreement") + _value_or_neutral(frame, "pattern_confidence")
        )
        / 2,
        "momentum_component": np.where(short, 1 - moved, moved),
        "volume_component": _value_or_neutral(frame, "volume_score"),
    }
    composite = (
        cfg.news * parts["news_component"]
        + cfg.technical * parts["technical_component"]
        + cfg.momentum * parts["momentum_component"]
        + cfg.volume * parts["volume_component"]
    )
    standing = sieve.remaining.copy()
    sieve.refuse(composite < cfg.min_composite, f"composite %.2f below {cfg.min_composite:g}", composite)
    ranks = sieve.keep_best(composite, len(frame), "")
    judged = {name: np.where(standing, part, np.nan) for name, part in parts.items()}
    return sieve.to_frame(**judged, composite=np.where(standing, composite, np.nan), score_rank=ranks)


def _value_or_neutral(frame: pd.DataFrame, name: str) -> Floats:
    values = float_values(frame, name)
    return np.where(np.isfinite(values), np.clip(values, 0.0, 1.0), _NEUTRAL)
