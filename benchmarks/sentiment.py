"""How well headlines are read, and how fast, against plain VADER on labelled headlines.

    python -m benchmarks.sentiment [labelled.csv.gz]

The file has the columns dataset, text and label (negative, neutral, positive). A score beyond +-0.05, VADER's own
threshold, is a verdict; both readers are judged by the same one.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from benchmarks.scan import interleaved
from catalyst.pipeline.frame import Floats
from catalyst.pipeline.sentiment import read, score_texts

LABELS = ("negative", "neutral", "positive")
THRESHOLD = 0.05
DEFAULT = Path(__file__).resolve().parents[2] / "shared" / "data" / "sentiment_labelled.csv.gz"


def measure(truth: "pd.Series[str]", scores: Floats) -> tuple[float, float]:
    """Accuracy and macro-F1 of scores against labels."""
    said = np.where(scores > THRESHOLD, "positive", np.where(scores < -THRESHOLD, "negative", "neutral"))
    known = truth.to_numpy(dtype=object)
    f1 = [
        2
        * np.sum((said == label) & (known == label))
        / max(np.sum(said == label) + np.sum(known == label), 1)
        for label in LABELS
    ]
    return float(np.mean(said == known)), float(np.mean(f1))


def plain(texts: list[str]) -> Floats:
    """VADER as it comes."""
    analyzer = SentimentIntensityAnalyzer()
    return np.array([analyzer.polarity_scores(text)["compound"] for text in texts])


def main() -> None:
    """Print accuracy / macro-F1 of both by data set, and the time of a thousand headlines."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    if not path.exists():
        print(f"sentiment: no labelled headlines at {path}; name a file")
        return
    told = pd.read_csv(path, keep_default_na=False)
    theirs, ours = plain(told["text"].tolist()), score_texts(told["text"].tolist())
    groups = {"all": np.ones(len(told), dtype=bool)} | {
        name: (told["dataset"] == name).to_numpy() for name in told["dataset"].unique()
    }
    print(f"{'data set':15} {'texts':>6}  VADER acc / F1   ours acc / F1")
    for name, chosen in groups.items():
        labels = told["label"][chosen]
        before, after = measure(labels, theirs[chosen]), measure(labels, ours[chosen])
        print(
            f"{name:15} {len(labels):6}  {before[0]:.3f} / {before[1]:.3f}    {after[0]:.3f} / {after[1]:.3f}"
        )
    some = told["text"].tolist()[:1000]
    analyzer = SentimentIntensityAnalyzer()
    bare, prepared, again = interleaved(
        lambda: [analyzer.polarity_scores(text) for text in some],
        lambda: [analyzer.polarity_scores(read(text)) for text in some],
        lambda: score_texts(some),
        rounds=5,
    )
    print(f"1,000 headlines: VADER {bare:.0f} ms, ours first {prepared:.0f} ms ({prepared / bare:.2f}x), "
          f"ours again {again:.1f} ms ({again / bare:.3f}x; a headline is read once a day)")  # fmt: skip


if __name__ == "__main__":
    main()
