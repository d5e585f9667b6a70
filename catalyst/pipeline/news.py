"""Stage 3 of 8: scores the headlines about the best stocks of the scan, and refuses bad news in long-only trading."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import numpy as np
import pandas as pd

from catalyst.config.schema import NewsConfig
from catalyst.pipeline.frame import Floats, StageFilter, epoch_seconds, require_aware
from catalyst.pipeline.news_kinds import classify
from catalyst.pipeline.sentiment import score_texts

SentimentScorer = Callable[[Sequence[str]], Floats]

# The weight of each source; an unknown source has a medium weight.
_SOURCE_WEIGHT: Final = {
    "benzinga": 1.0, "reuters": 1.0, "bloomberg": 1.0, "dow jones": 1.0, "business wire": 1.0, "businesswire": 1.0,
    "pr newswire": 1.0, "prnewswire": 1.0, "globenewswire": 1.0, "globe newswire": 1.0, "accesswire": 0.8,
    "marketwatch": 0.8, "cnbc": 0.8, "wsj": 0.9, "associated press": 0.9, "barrons": 0.7, "barrons.com": 0.7,
    "yahoo": 0.6, "yahoo finance": 0.6, "thefly": 0.9, "sec": 1.0, "seekingalpha": 0.4, "seeking alpha": 0.4,
    "motley fool": 0.2, "the motley fool": 0.2, "zacks": 0.3, "simply wall st.": 0.3, "insider monkey": 0.2,
    "gurufocus": 0.3, "gurufocus.com": 0.3, "24/7 wall st.": 0.2, "stockstory": 0.3, "chartmill": 0.3,
}  # fmt: skip
_UNKNOWN_SOURCE: Final = 0.6
# Beyond this number of tagged symbols a headline's weight is divided: market reports are not a company's own news.
_UNDISCOUNTED_TAGS: Final = 2
# Headlines of this total weight move the score half way from neutral to their sentiment.
_HALF_CONVICTION_WEIGHT: Final = 0.5


def symbols_to_read(frame: pd.DataFrame, cfg: NewsConfig) -> list[str]:
    """Return the symbols whose headlines the stage reads: the best `cfg.max_symbols` by scan score."""
    selected = frame[frame["refused_by"].isna() & (frame["scan_rank"] <= cfg.max_symbols)]
    return [str(symbol) for symbol in selected.sort_values("scan_rank").index]


def news(
    frame: pd.DataFrame,
    headlines: pd.DataFrame,
    now: datetime,
    cfg: NewsConfig,
    *,
    allow_short: bool,
    enabled: bool = True,
    failed: bool = False,
    scorer: SentimentScorer = score_texts,
) -> pd.DataFrame:
    """Score the headlines of the best `cfg.max_symbols` rows; keep `cfg.max_candidates` by scan score and news.

    Reads   frame: scan_score, scan_rank; headlines: id, symbol, headline, summary, source, published_at,
            received_at, url; one row per headline and symbol. Only headlines received by `now` count.
    Writes  news_score, [0, 1]: 0.5 no news or neutral, above it good, below it bad; sentiment, [-1, 1], the
            weighted mean; news_weight, the sum of the weights; news_count, distinct headlines; catalyst, the kind
            of the headline with the largest weight; headline, its text; news_state: read | none | off | failed;
            news_rank.
    Raises  ValueError for a naive `now`.

    A stock without news, a switched-off stage and a failed source all score neutral; news_state tells which. In
    long-only trading a news score of `cfg.veto_score` or below refuses the row.
    """
    stage_filter = StageFilter(frame, "news")
    scan_rank = frame["scan_rank"].to_numpy(dtype=np.float64)
    stage_filter.refuse(
        scan_rank > cfg.max_symbols,
        f"rank %d by scan score; news reads the best {cfg.max_symbols}",
        scan_rank,
    )
    weighted = (
        pd.DataFrame()
        if failed or not enabled
        else _weigh_headlines(headlines, frame.index, now, cfg, scorer)
    )
    news_values = _news_columns(weighted, frame.index)
    score = news_values["news_score"]
    state = np.where(
        news_values["news_count"] > 0, "read", "failed" if failed else "none" if enabled else "off"
    ).astype(object)
    state[~stage_filter.remaining] = None
    if not allow_short:
        stage_filter.refuse(
            score <= cfg.veto_score,
            f"news score %.2f ({cfg.veto_score:g} or less refuses a long): %s",
            score,
            news_values["headline"],
        )
    interest = frame["scan_score"].to_numpy(dtype=np.float64) + np.abs(score - 0.5)
    ranks = stage_filter.keep_best(
        interest, cfg.max_candidates, "rank %d of %d by scan score and news; news keeps %d"
    )
    return stage_filter.to_frame(**news_values, news_state=pd.array(state, dtype="str"), news_rank=ranks)


def _news_columns(weighted: pd.DataFrame, index: pd.Index) -> dict[str, Any]:
    """Return the stage's columns for every row; neutral where there are no headlines."""
    news_values = weighted.reindex(index)
    if news_values.empty or "sentiment" not in news_values.columns:
        none = np.zeros(len(index))
        blank = pd.array(np.full(len(index), None, dtype=object), dtype="str")
        return {
            "news_score": none + 0.5, "sentiment": none, "news_weight": none, "news_count": none,
            "catalyst": blank, "headline": blank,
        }  # fmt: skip
    weight = news_values["weight"].fillna(0.0).to_numpy(dtype=np.float64)
    sentiment = news_values["sentiment"].fillna(0.0).to_numpy(dtype=np.float64)
    conviction = weight / (weight + _HALF_CONVICTION_WEIGHT)
    return {
        "news_score": 0.5 + 0.5 * sentiment * conviction,
        "sentiment": sentiment,
        "news_weight": weight,
        "news_count": news_values["count"].fillna(0.0).to_numpy(dtype=np.float64),
        "catalyst": pd.array(news_values["catalyst"].to_numpy(dtype=object), dtype="str"),
        "headline": pd.array(news_values["headline"].to_numpy(dtype=object), dtype="str"),
    }


def _weigh_headlines(
    headlines: pd.DataFrame, index: pd.Index, now: datetime, cfg: NewsConfig, scorer: SentimentScorer
) -> pd.DataFrame:
    """Return by symbol: sentiment (weighted mean), weight (sum), count, and the top headline with its kind."""
    timely = _timely_headlines(headlines, index, now, cfg)
    if timely.empty:
        return pd.DataFrame()
    kinds = classify(timely["headline"].tolist())
    age = (require_aware(now) - epoch_seconds(timely["published_at"])) / 3600
    source = timely["source"].fillna("").str.strip().str.lower().map(_SOURCE_WEIGHT).fillna(_UNKNOWN_SOURCE)
    tags = np.maximum(timely["tags"].to_numpy(dtype=np.float64) / _UNDISCOUNTED_TAGS, 1.0)
    weight = (
        np.exp2(-np.maximum(age, 0.0) / cfg.half_life_hours)
        * source.to_numpy(dtype=np.float64)
        * np.array([kind.weight for kind in kinds])
        / tags
    )
    text_score = np.clip(scorer(timely["headline"].tolist()), -1.0, 1.0)
    lean = np.array([kind.lean for kind in kinds])
    # A kind with a lean of its own (an offering, a buyback) decides where the words are neutral or weaker.
    tone = np.where(
        lean * text_score < 0, text_score, np.where(np.abs(lean) > np.abs(text_score), lean, text_score)
    )
    timely = timely.assign(weight=weight, toned=tone * weight, catalyst=[kind.name for kind in kinds])
    timely = timely.sort_values(["symbol", "weight", "headline"], ascending=[True, False, True])
    by_symbol = timely.groupby("symbol")
    out = by_symbol.agg(
        weight=("weight", "sum"), toned=("toned", "sum"), count=("headline", "size"),
        headline=("headline", "first"), catalyst=("catalyst", "first"),
    )  # fmt: skip
    return out.assign(sentiment=out["toned"] / out["weight"])


def _timely_headlines(
    headlines: pd.DataFrame, index: pd.Index, now: datetime, cfg: NewsConfig
) -> pd.DataFrame:
    """Return the headlines that were readable at `now`, once per symbol, with the number of symbols that share each."""
    if headlines.empty:
        return headlines
    at = require_aware(now)
    published, received = epoch_seconds(headlines["published_at"]), epoch_seconds(headlines["received_at"])
    text = headlines["headline"].fillna("").str.strip()
    timely = (published <= at) & (received <= at) & (published >= at - 3600 * cfg.lookback_hours)
    valid = headlines.assign(headline=text)[timely & (text != "").to_numpy()]
    words = valid["headline"].str.lower().str.replace(r"[^a-z0-9]+", " ", regex=True).str.strip()
    valid = valid.assign(words=words).sort_values(["published_at", "id", "symbol"])
    # Headlines with equal words, from any source, are one piece of news, as old as the first of them.
    distinct = valid.drop_duplicates(["symbol", "words"])
    tags = distinct.groupby("words")["symbol"].transform("nunique")
    return distinct.assign(tags=tags)[distinct["symbol"].isin(index)]
