"""How well headlines are read, and how fast, against plain VADER on labelled headlines.

The labelled file has the columns dataset, text and label (negative, neutral, positive). A score beyond +-0.05,
VADER's own threshold, is a verdict; both readers are judged by the same one.
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
    """Accuracy and macro-F1 of scores against labels."""
    said = np.where(scores > THRESHOLD, "positive", np.where(scores < -THRESHOLD, "negative", "neutral"))
    known = labels.to_numpy(dtype=object)
    f1 = [
        2
        * np.sum((said == label) & (known == label))
        / max(np.sum(said == label) + np.sum(known == label), 1)
        for label in LABELS
    ]
    return float(np.mean(said == known)), float(np.mean(f1))


def vader_scores(texts: list[str]) -> Floats:
    """VADER as it comes."""
    analyzer = SentimentIntensityAnalyzer()
    return np.array([analyzer.polarity_scores(text)["compound"] for text in texts])


def run() -> list[tuple[str, float, str]]:
    """Accuracy and macro-F1 of both by data set, and the time of a thousand headlines; nothing without the file."""
    if not LABELLED.exists():
        return []
    labelled = pd.read_csv(LABELLED, keep_default_na=False)
    readers = {
        "VADER": vader_scores(labelled["text"].tolist()),
        "ours": score_texts(labelled["text"].tolist()),
    }
    groups = {"all": np.ones(len(labelled), dtype=bool)} | {
        name: (labelled["dataset"] == name).to_numpy() for name in labelled["dataset"].unique()
    }
    figures = [
        (f"{name}, {chosen.sum():,} texts: {reader}, {what}", figure, "")
        for name, chosen in groups.items()
        for reader, scores in readers.items()
        for what, figure in zip(
            ("accuracy", "macro-F1"), accuracy_and_f1(labelled["label"][chosen], scores[chosen]), strict=True
        )
    ]
    some = labelled["text"].tolist()[:1000]
    analyzer = SentimentIntensityAnalyzer()
    bare, prepared, again = interleaved(
        lambda: [analyzer.polarity_scores(text) for text in some],
        lambda: [_score.__wrapped__(text) for text in some],
        lambda: score_texts(some),
        rounds=5,
    )
    return [
        *figures,
        ("1,000 headlines: VADER's own loop", bare, "ms CPU"),
        ("1,000 headlines: ours, read for the first time", prepared, "ms CPU"),
        ("1,000 headlines: ours, read again by the next scan", again, "ms CPU"),
        ("first reading over VADER (target <= 1)", prepared / bare, "x"),
    ]
