"""Accuracy and speed of the headline sentiment, against plain VADER on labelled headlines.

The labelled file has the columns dataset, text and label (negative, neutral, positive). For both scorers a score beyond
+-0.05, VADER's own threshold, counts as positive or negative.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from benchmarks.scan import interleaved
from catalyst.pipeline.frame import Floats
from catalyst.pipeline.sentiment import _score, score_texts

LABELS = ("negative", "neutral", "positive")
THRESHOLD = 0.05
LABELLED = Path(__file__).resolve().parents[2] / "shared" / "data" / "sentiment_labelled.csv.gz"


def accuracy_and_f1(labels: "pd.Series[str]", scores: Floats) -> tuple[float, float]:
    """Return accuracy and macro-F1 of scores against labels."""
    predicted = np.where(scores > THRESHOLD, "positive", np.where(scores < -THRESHOLD, "negative", "neutral"))
    actual = labels.to_numpy(dtype=object)
    f1 = [
        2
        * np.sum((predicted == label) & (actual == label))
        / max(np.sum(predicted == label) + np.sum(actual == label), 1)
        for label in LABELS
    ]
    return float(np.mean(predicted == actual)), float(np.mean(f1))


def vader_scores(texts: list[str]) -> Floats:
    """Return the scores of unmodified VADER."""
    analyzer = SentimentIntensityAnalyzer()
    return np.array([analyzer.polarity_scores(text)["compound"] for text in texts])


def run() -> list[tuple[str, float, str]]:
    """Measure accuracy and macro-F1 of both by data set, and the time of 1,000 headlines; no rows without the file."""
    if not LABELLED.exists():
        return []
    labelled = pd.read_csv(LABELLED, keep_default_na=False)
    scores_by_scorer = {
        "VADER": vader_scores(labelled["text"].tolist()),
        "ours": score_texts(labelled["text"].tolist()),
    }
    groups = {"all": np.ones(len(labelled), dtype=bool)} | {
        name: (labelled["dataset"] == name).to_numpy() for name in labelled["dataset"].unique()
    }
    figures = [
        (f"{name}, {chosen.sum():,} texts: {scorer}, {measure}", figure, "")
        for name, chosen in groups.items()
        for scorer, scores in scores_by_scorer.items()
        for measure, figure in zip(
            ("accuracy", "macro-F1"), accuracy_and_f1(labelled["label"][chosen], scores[chosen]), strict=True
        )
    ]
    sample = labelled["text"].tolist()[:1000]
    analyzer = SentimentIntensityAnalyzer()
    bare, uncached, cached = interleaved(
        lambda: [analyzer.polarity_scores(text) for text in sample],
        lambda: [_score.__wrapped__(text) for text in sample],
        lambda: score_texts(sample),
        rounds=5,
    )
    return [
        *figures,
        ("1,000 headlines: VADER's own loop", bare, "ms CPU"),
        ("1,000 headlines: ours, first scoring", uncached, "ms CPU"),
        ("1,000 headlines: ours, cached in the next scan", cached, "ms CPU"),
        ("first scoring over VADER (target <= 1)", uncached / bare, "x"),
    ]
