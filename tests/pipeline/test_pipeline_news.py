import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_frames import CFG, candidates, headlines, new_york

from catalyst.pipeline.frame import remaining_symbols
from catalyst.pipeline.news import news, symbols_to_read
from catalyst.pipeline.news_kinds import classify
from catalyst.pipeline.sentiment import _analyzer, score_texts, tokenize

NOW = new_york(10, 0)
LABELLED = Path(__file__).resolve().parents[3] / "shared" / "data" / "sentiment_labelled.csv.gz"
GOOD = "Acme beats quarterly estimates and raises full-year guidance"
BAD = "Acme plunges after FDA rejects its drug and it cuts its outlook"


def run_news(
    headline_frame: pd.DataFrame,
    *symbols: str,
    now=NOW,
    cfg=CFG.news,
    frame: pd.DataFrame | None = None,
    **kw,
):
    frame = candidates(*(symbols or ("ACME",))) if frame is None else frame
    return news(frame, headline_frame, now, cfg, **({"allow_short": True} | kw))


def news_row(*headline_frame: tuple[str, str, object], **kw) -> pd.Series:
    return run_news(headlines(*headline_frame), **kw).loc["ACME"]  # type: ignore[arg-type]


def test_news_score_is_high_for_good_and_low_for_bad_headlines():
    """Scores lie in [0, 1]; the headline and its kind are kept."""
    good, bad = news_row(("ACME", GOOD, new_york(9, 30))), news_row(("ACME", BAD, new_york(9, 30)))
    assert 0.75 < good["news_score"] <= 1
    assert 0 <= bad["news_score"] < 0.25
    assert (good["catalyst"], bad["catalyst"]) == ("guidance", "fda")
    assert good["headline"] == GOOD
    assert good["news_state"] == "read"


def test_news_score_is_neutral_without_news_source_or_switch():
    """No news, a failed source and a disabled stage each score 0.5, refuse no row and set their state; the
    last two read no headline."""
    headline_frame = headlines(("ACME", GOOD, new_york(9, 30)))
    for kw, state in (({}, "none"), ({"failed": True}, "failed"), ({"enabled": False}, "off")):
        row = run_news(headline_frame if kw else headlines(), **kw).loc["ACME"]
        assert (row["news_score"], row["news_state"], row["news_count"]) == (0.5, state, 0)
        assert pd.isna(row["refused_by"])


def test_news_counts_copies_of_a_headline_once():
    """A copy with other punctuation adds nothing, and the news keeps the age of its first publication."""
    once = news_row(("ACME", GOOD, new_york(9, 0)))
    twice = news_row(("ACME", GOOD, new_york(9, 0)), ("ACME", GOOD.upper() + "!", new_york(9, 55)))
    assert twice["news_count"] == 1
    assert twice["news_score"] == once["news_score"]


def test_news_weighs_old_and_widely_tagged_headlines_less():
    """An 18-hour-old headline, and one tagged with many symbols, move the score less than a fresh one about
    one symbol; after 25 hours it has no effect."""
    fresh = news_row(("ACME", GOOD, new_york(9, 55)))["news_score"]
    old = news_row(("ACME", GOOD, NOW - timedelta(hours=18)))["news_score"]
    crowd = news_row(*((s, GOOD, new_york(9, 55)) for s in ("ACME", *"BCDEFGHIJKLMNOPQ")))["news_score"]
    gone = news_row(("ACME", GOOD, NOW - timedelta(hours=25)))
    assert fresh > old > 0.5
    assert fresh > crowd > 0.5
    assert gone["news_state"] == "none"


def test_news_score_ignores_lists_and_opinions():
    """`5 stocks to buy` is not an event."""
    opinion = news_row(
        ("ACME", "5 top stocks to buy now, including Acme, soaring to a record high", new_york(9, 55))
    )
    assert abs(opinion["news_score"] - 0.5) < 0.1
    assert opinion["catalyst"] == "list"


def test_news_weighs_a_newswire_above_a_blog():
    """A newswire moves the score further than a blog with the same text."""
    headline_frame = headlines(("ACME", GOOD, new_york(9, 55)), source="Business Wire")
    blog = headlines(("ACME", GOOD, new_york(9, 55)), source="Motley Fool")
    assert run_news(headline_frame).loc["ACME", "news_score"] > run_news(blog).loc["ACME", "news_score"]


def test_news_ignores_headlines_received_after_the_decision():
    """Headlines published or received after the decision change nothing."""
    headline_frame = headlines(("ACME", GOOD, new_york(9, 30)))
    late = headlines(("ACME", BAD, new_york(10, 1)))
    slow = headlines(("ACME", BAD, new_york(9, 40))).assign(received_at=pd.Timestamp(new_york(10, 0, 1)))
    alone = run_news(headline_frame)
    pd.testing.assert_frame_equal(alone, run_news(pd.concat([headline_frame, late, slow], ignore_index=True)))


def test_news_refuses_a_long_at_the_veto_score():
    """Long-only refuses at the veto score; with shorts allowed the row passes."""
    row = news_row(("ACME", BAD, new_york(9, 58)), allow_short=False)
    assert row["refused_by"] == "news"
    assert row["reason"].startswith("news score 0.")
    assert BAD in row["reason"]
    assert pd.isna(news_row(("ACME", BAD, new_york(9, 58)), allow_short=True)["refused_by"])


def test_news_stage_reads_a_hundred_and_keeps_thirty_five():
    """Rows beyond the reading rank or the cap are refused with their rank; good news moves a stock up."""
    names = [f"S{k:03}" for k in range(150)]
    frame = candidates(*names).assign(scan_rank=np.arange(1.0, 151.0), scan_score=np.linspace(1, 0.3, 150))
    assert symbols_to_read(frame, CFG.news) == names[:100]
    out = run_news(headlines(("S060", GOOD, new_york(9, 50)), ("S120", GOOD, new_york(9, 50))), frame=frame)
    assert len(remaining_symbols(out)) == 35
    assert "S060" in remaining_symbols(out)
    assert out.loc["S120", "reason"] == "rank 121 by scan score; news reads the best 100"
    assert out.loc["S050", "reason"].endswith("news keeps 35")


def test_news_stage_accepts_another_scorer():
    """Any callable that returns a number per text is accepted, and its result is clipped to [-1, 1]."""
    headline_frame = headlines(("ACME", "Acme did something", new_york(9, 55)))
    assert (
        run_news(headline_frame, scorer=lambda texts: np.full(len(texts), 7.0)).loc["ACME", "sentiment"]
        == 1.0
    )


@pytest.mark.parametrize(
    ("headline", "kind"),
    [
        ("Acme Q3 EPS $0.45 beats $0.40 estimate", "earnings"),
        ("Acme raises FY2026 outlook", "guidance"),
        ("Acme to acquire Widget Inc. for $2 billion", "merger"),
        ("FDA grants breakthrough therapy designation to Acme's drug", "fda"),
        ("Acme prices $150 million public offering of common stock", "offering"),
        ("Acme wins $90 million Army contract", "contract"),
        ("Goldman upgrades Acme to Buy, price target $90", "rating"),
        ("Shareholders file class action lawsuit against Acme", "litigation"),
        ("Acme announces $1 billion share buyback", "capital_return"),
        ("Acme CEO steps down", "management"),
        ("Acme files for Chapter 11", "bankruptcy"),
        ("Nasdaq halted trading of Acme", "halt"),
        ("3 tech stocks to watch this week", "list"),
        ("Is Acme stock a buy?", "list"),
        ("Acme is a company", "other"),
    ],
)
def test_headline_is_classified_by_kind(headline: str, kind: str):
    """Financial phrases determine the kind of event."""
    assert classify([headline])[0].name == kind


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("Acme profit rises", "Acme profit falls"),
        ("Acme costs fall", "Acme costs rise"),
        ("Acme net loss narrows", "Acme net loss widens"),
        ("Acme raises guidance", "Acme cuts guidance"),
        ("Acme beats estimates", "Acme misses estimates"),
        ("Acme swings to profit", "Acme swings to a loss"),
        ("Sales of $9.9 mn compared to $8.4 mn a year ago", "Sales of $7.9 mn compared to $8.4 mn a year ago"),
        ("Acme shares hit 52-week high", "Acme shares hit 52-week low"),
        ("Goldman upgrades Acme", "Goldman downgrades Acme"),
        ("Debt was reduced", "Debt increased"),
        ("Acme opens a plant", "Acme fails to open a plant"),
    ],
)  # fmt: skip
def test_sentiment_ranks_financial_phrases_correctly(better: str, worse: str):
    """The better phrase scores at least zero and the worse one below zero."""
    good, bad = score_texts([better, worse])
    assert good >= 0 > bad


def test_sentiment_is_repeatable_and_bounded_for_any_text():
    """Empty, odd and very long texts score within [-1, 1], with equal results each time."""
    odd = [
        "",
        "   ",
        "🚀🚀🚀",
        "$$$ !!! ???",
        "a" * 5000,
        "vs from compared to against 7 8",
        "1,2,3.4.5 compared to 1.2.3",
    ]
    first, second = score_texts(odd), score_texts(odd)
    assert (first == second).all()
    assert (np.abs(first) <= 1).all()
    assert tokenize("") == []


VOCABULARY = tuple(
    """acme profit falls rises sharply very slightly not isn't never so this no least at but without doubt growth weak
    strong beats misses kind of sort less more hardly cannot or the bomb ! ? xnumber good bad terrible surge
    cut""".split()  # noqa: SIM905  words in a row
)


@given(words=st.lists(st.sampled_from(VOCABULARY), max_size=14))
def test_sentiment_sum_equals_vader(words: list[str]):
    """Each score equals VADER's score of the same tokens with our lexicon, for any combination of words."""
    text = " ".join(words)
    assert score_texts([text])[0] == _analyzer().polarity_scores(" ".join(tokenize(text)))["compound"]


@pytest.mark.skipif(not LABELLED.exists(), reason="no labelled headlines beside the repository")
def test_sentiment_beats_plain_vader_on_labelled_headlines():
    """On 4,000 of the 14,000 labelled headlines, accuracy and macro-F1 are at least 0.15 above VADER's."""
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    headline_frame = pd.read_csv(LABELLED, keep_default_na=False).sample(4000, random_state=1)
    plain = SentimentIntensityAnalyzer()

    def grade(scores: np.ndarray) -> tuple[float, float]:
        predicted = np.select([scores > 0.05, scores < -0.05], ["positive", "negative"], "neutral")
        labels = headline_frame["label"].to_numpy(dtype=object)
        both = [(predicted == label, labels == label) for label in ("negative", "neutral", "positive")]
        return float(np.mean(predicted == labels)), float(
            np.mean([2 * np.sum(a & b) / (a.sum() + b.sum()) for a, b in both])
        )

    theirs = grade(np.array([plain.polarity_scores(text)["compound"] for text in headline_frame["text"]]))
    ours = grade(score_texts(headline_frame["text"].tolist()))
    assert ours[0] > theirs[0] + 0.15
    assert ours[1] > theirs[1] + 0.15


def test_sentiment_lexicon_is_loaded_only_when_used():
    """Importing the stage does not load the lexicon: a daemon without news never loads it."""
    script = "import sys, catalyst.pipeline.news; sys.exit('vaderSentiment' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
