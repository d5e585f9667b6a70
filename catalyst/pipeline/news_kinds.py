"""Classification of headlines by their phrases; the kind of news sets a headline's weight and its lean."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple


class NewsKind(NamedTuple):
    """A kind of news. `weight` 1 is a company's own event; `lean` in [-1, 1] is nonzero for good or bad kinds."""

    name: str
    weight: float
    lean: float


def _news_kind(name: str, weight: float, lean: float, *phrases: str) -> tuple[NewsKind, re.Pattern[str]]:
    return NewsKind(name, weight, lean), re.compile(
        "|".join(rf"(?:{phrase})" for phrase in phrases), re.IGNORECASE
    )


OTHER: Final = NewsKind("other", 0.5, 0.0)
LISTICLE: Final = NewsKind("list", 0.1, 0.0)

# Opinions and lists name many stocks without new facts: `5 stocks to watch`, `Is X a buy?`.
_LISTICLE: Final = re.compile(
    r"\b(?:top|best|these|\d+)\s+(?:\w+\s+){0,3}(?:stocks?|etfs?|picks|companies|names|reasons|things)\b"
    r"|\bstocks?\s+(?:to\s+(?:buy|watch|own|sell)|moving|making|in\s+focus|on\s+the\s+move)"
    r"|\b(?:is|should|does|can|could|will|why)\b.*\?\s*$|\bhere(?:'|’)?s\s+(?:why|what|how)\b"
    r"|\bif\s+you(?:'d)?\s+(?:had\s+)?invested\b|\bbetter\s+buy\b|\bprediction\b|\bcramer\b"
    r"|\b(?:pre-?market|mid-?day|after-?hours|biggest)\s+(?:movers|gainers|losers)\b"
    r"|\bstock\s+market\s+(?:today|news)\b|\bmarket\s+(?:wrap|roundup|recap)\b|\bwhat\s+to\s+(?:watch|know|expect)\b",
    re.IGNORECASE,
)

# A headline gets the first kind that has a matching phrase; kinds with stronger claims come first.
_KINDS: Final = (
    _news_kind(
        "halt",
        1.0,
        -0.4,
        r"\btrading\s+halt",
        r"\bhalted\b",
        r"\bdelist",
        r"\bnon-?compliance\b",
        r"\bgoing\s+concern\b",
    ),
    _news_kind(
        "bankruptcy",
        1.0,
        -0.9,
        r"\bbankruptc",
        r"\bchapter\s+(?:7|11)\b",
        r"\binsolven",
        r"\bdefaults?\s+on\b",
    ),
    _news_kind(
        "fda",
        1.0,
        0.0,
        r"\bfda\b",
        r"\bphase\s+(?:1|2|3|i{1,3})[ab]?\b",
        r"\bclinical\s+(?:trial|hold|data)",
        r"\bprimary\s+endpoint",
        r"\bpdufa\b",
        r"\b(?:breakthrough|orphan|fast\s+track)\s+(?:\w+\s+)?designation",
        r"\bnew\s+drug\s+application\b",
        r"\btop-?line\s+(?:results|data)",
    ),
    _news_kind(
        "rating",
        0.9,
        0.0,
        r"\bupgrad",
        r"\bdowngrad",
        r"\bprice\s+target\b",
        r"\binitiat\w+\s+(?:at|with|coverage)",
        r"\b(?:raises|lowers|cuts|boosts|hikes|maintains|reiterates)\s+(?:pt|target|rating)",
        r"\boverweight\b",
        r"\bunderweight\b",
        r"\boutperform\b",
        r"\bunderperform\b",
        r"\b(?:buy|sell|hold|neutral)\s+rating\b",
    ),
    _news_kind(
        "merger",
        1.0,
        0.3,
        r"\bto\s+(?:acquire|buy|merge)\b",
        r"\bacquir(?:es|ed|ing)\b",
        r"\bacquisition\s+of\b",
        r"\bmerg(?:er|es|ing)\b",
        r"\btakeover\b",
        r"\bbuyout\b",
        r"\btender\s+offer\b",
        r"\bgo(?:es|ing)?\s+private\b",
        r"\bexplor(?:es?|ing)\s+(?:a\s+)?(?:sale|strategic\s+alternatives)",
    ),
    _news_kind(
        "offering",
        1.0,
        -0.6,
        r"\b(?:public|secondary|stock|share|direct|registered|note|debt)s?\s+offering\b",
        r"\boffering\s+of\s+(?:\w+\s+){0,3}(?:shares|stock|notes|units)",
        r"\bat-the-market\b",
        r"\bdilut",
        r"\bprivate\s+placement\b",
        r"\bpric(?:es|ing)\s+(?:of\s+)?(?:\S+\s+){0,3}offering",
        r"\bshelf\s+registration\b",
        r"\breverse\s+(?:stock\s+)?split\b",
    ),
    _news_kind(
        "guidance",
        1.0,
        0.0,
        r"\bguid(?:ance|es)\b",
        r"\boutlook\b",
        r"\bforecasts?\b",
        r"\bsees\s+(?:q[1-4]|fy|fiscal)",
        r"\bexpects\s+(?:q[1-4]|fy|fiscal|full)",
        r"\bprofit\s+warning\b",
        r"\bpre-?announc",
        r"\bpreliminary\b.*\bresults\b",
    ),
    _news_kind(
        "earnings",
        1.0,
        0.0,
        r"\bearnings\b",
        r"\beps\b",
        r"\bq[1-4]\b",
        r"\b(?:first|second|third|fourth)[- ]quarter\b",
        r"\bquarterly\b",
        r"\bresults\b",
        r"\brevenue\b",
        r"\bprofit\b",
        r"\bnet\s+(?:income|loss|sales)\b",
    ),
    _news_kind(
        "litigation",
        0.8,
        -0.5,
        r"\blaw\s?suits?\b",
        r"\bsu(?:es|ed|ing)\b",
        r"\bclass\s+action\b",
        r"\blitigation\b",
        r"\binvestigat",
        r"\bsubpoena",
        r"\bprobe\b",
        r"\bsec\s+charges\b",
        r"\bfraud\b",
        r"\bindict",
        r"\bantitrust\b",
        r"\bfine[sd]?\s+(?:of\s+)?\$",
        r"\bsettle(?:s|d|ment)\b",
        r"\brecall(?:s|ed|ing)?\b",
        r"\bpatent\s+infring",
    ),
    _news_kind(
        "contract",
        0.9,
        0.4,
        r"\b(?:wins?|won|awarded|secures?|lands?|signs?|signed|inks?)\b.*\b(?:contracts?|orders?|deals?|agreement)",
        r"\bcontracts?\s+(?:award|worth|valued)",
        r"\bpartner(?:s|ship|ing)\b",
        r"\bcollaborat",
        r"\bsupply\s+agreement\b",
        r"\bselected\s+by\b",
        r"\bjoint\s+venture\b",
    ),
    _news_kind(
        "capital_return",
        0.7,
        0.3,
        r"\bbuy-?backs?\b",
        r"\brepurchas",
        r"\bdividends?\b",
        r"\bspecial\s+distribution\b",
        r"\bstock\s+split\b",
    ),
    _news_kind(
        "short_report",
        0.9,
        -0.6,
        r"\bshort[- ]seller\b",
        r"\bshort\s+report\b",
        r"\bhindenburg\b",
        r"\bmuddy\s+waters\b",
        r"\bcitron\b",
    ),
    _news_kind(
        "management",
        0.7,
        0.0,
        r"\b(?:ceo|cfo|coo|chairman|chief\s+\w+\s+officer)\b.*"
        r"\b(?:resign|steps?\s+down|depart|appoint|names?|named|fired|ousted|retire)",
        r"\b(?:appoints?|names?)\b.*\b(?:ceo|cfo|coo|chief)\b",
        r"\blay-?offs?\b",
        r"\bjob\s+cuts\b",
        r"\brestructur",
    ),
    _news_kind(
        "product",
        0.7,
        0.2,
        r"\blaunch(?:es|ed|ing)?\b",
        r"\bunveil",
        r"\bintroduc(?:es|ed|ing)\b",
        r"\bannounces\s+new\b",
        r"\bpatent\s+(?:granted|issued)",
        r"\brolls?\s+out\b",
        r"\bexpands?\b",
        r"\bexpansion\b",
    ),
    _news_kind(
        "insider",
        0.6,
        0.0,
        r"\binsiders?\s+(?:buy|sell|bought|sold)",
        r"\b13[dfg]\b",
        r"\bstake\s+in\b",
        r"\bactivist\b",
        r"\bform\s+4\b",
    ),
)


def classify(headlines: Sequence[str]) -> list[NewsKind]:
    """Return the kind of each headline; OTHER when no phrase matches, LISTICLE for lists and opinions."""
    return [_classify(headline) for headline in headlines]


def _classify(headline: str) -> NewsKind:
    if _LISTICLE.search(headline):
        return LISTICLE
    for kind, phrases in _KINDS:
        if phrases.search(headline):
            return kind
    return OTHER
