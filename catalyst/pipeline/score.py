"""Stage 6 of 8: computes one composite score per candidate from four components in [0, 1]."""

import numpy as np
import pandas as pd

from catalyst.config.schema import ScoringConfig
from catalyst.pipeline.frame import Floats, StageFilter, float_values, text_values

_NEUTRAL = 0.5


def score(frame: pd.DataFrame, cfg: ScoringConfig) -> pd.DataFrame:
    """Write the composite of every remaining row and refuse rows below `cfg.min_composite`.

    Reads   frame: side; news_score; agreement, pattern_confidence; momentum_score; volume_score.
    Writes  news_component: news_score, inverted (1 - x) for a short; technical_component: half agreement, half
            pattern confidence; momentum_component: the scan's percentile, inverted for a short;
            volume_component: the scan's percentile; composite, the weighted sum; score_rank.
    A missing component (its stage is switched off or has no data) counts as 0.5.
    """
    stage_filter = StageFilter(frame, "score")
    short = text_values(frame, "side") == "short"
    news, momentum = _value_or_neutral(frame, "news_score"), _value_or_neutral(frame, "momentum_score")
    components = {
        "news_component": np.where(short, 1 - news, news),
        "technical_component": (
            _value_or_neutral(frame, "agreement") + _value_or_neutral(frame, "pattern_confidence")
        )
        / 2,
        "momentum_component": np.where(short, 1 - momentum, momentum),
        "volume_component": _value_or_neutral(frame, "volume_score"),
    }
    composite = (
        cfg.news * components["news_component"]
        + cfg.technical * components["technical_component"]
        + cfg.momentum * components["momentum_component"]
        + cfg.volume * components["volume_component"]
    )
    remaining = stage_filter.remaining.copy()
    stage_filter.refuse(
        composite < cfg.min_composite, f"composite %.2f below {cfg.min_composite:g}", composite
    )
    ranks = stage_filter.keep_best(composite, len(frame), "")
    columns = {name: np.where(remaining, component, np.nan) for name, component in components.items()}
    return stage_filter.to_frame(
        **columns, composite=np.where(remaining, composite, np.nan), score_rank=ranks
    )


def _value_or_neutral(frame: pd.DataFrame, name: str) -> Floats:
    values = float_values(frame, name)
    return np.where(np.isfinite(values), np.clip(values, 0.0, 1.0), _NEUTRAL)
