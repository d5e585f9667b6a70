"""Finance lexicon: valences of words on VADER's scale (-4 worst, 4 best), and phrases with a meaning of their own.

Written for headlines about listed companies and their shares. A price word describes the share ("slips"), an amount
word describes the company ("narrows"). Whether more of an amount is good depends on its subject, see `INVERTING_WORDS`.
"""

import re
from typing import Final


def _split_words(listed: str) -> list[str]:
    return listed.split()


_BY_VALENCE: Final = {
    3.0: """soar soars soared soaring skyrocket skyrockets skyrocketed skyrocketing blowout multibagger
        outperformed trounces crushes smashes""",
    2.5: """surge surges surged surging rally rallies rallied rallying jump jumps jumped jumping beat beats
        beating rocket rockets rocketed upgrade upgrades upgraded outperform outperforms
        outperforming bullish breakout tops topped exceeded exceeds surpass surpasses surpassed zoom
        zooms zoomed spurts spurt approves breakthrough accretive doubles doubled triples tripled
        quadrupled twofold threefold fourfold fivefold""",
    2.0: """rise rises rose rising risen gain gains gained gaining climb climbs climbed climbing higher advance
        advances advanced advancing rebound rebounds rebounded rebounding recover recovers recovered
        recovery recovering grow grows grew grown growing increase increases increased increasing
        improve improves improved improving improvement strengthen strengthens strengthened
        strengthening boost boosts boosted boosting lift lifts lifted expand expands expanded
        expanding expansion accelerate accelerates accelerated uptrend upswing uptick upmove upbeat
        buoyant robust strong stronger strongest record profitable upside raises raised hikes wins
        winning awarded secures secured bags bagged lands approval approved clearance cleared
        buyback repurchase overweight outpaces outpaced outshine outshines firmed swell swelled
        swells bounce bounces bounced buoyed cheer cheers cheered turnaround accumulate momentum
        peaks""",
    1.5: """buy buys buying up bets picks pick prefer prefers attractive undervalued long longs calls positive
        optimistic confident confidence healthy solid steady-growth favourable favorable benefit
        benefits benefited gainer gainers winner winners better upward upwards highs outlook-raised
        savings efficient efficiency synergies synergy rewarding inflows inflow upgradation tailwind
        tailwinds resilient resilience reiterated-buy orders-won milestone nod greenlight
        exclusive-win add""",
    0.8: """firm contract contracts order acquire acquires help helps strength stable recommend recommends
        prospects agreed won signed signs inks deal partnership partners partner collaboration
        collaborate launch launches launched unveils introduces dividend agreement selected invests
        invest stake-buy reaffirms growth supported supports support opportunity opportunities
        new-high demand hopes hope returns return potential strategic expects likes like-for-like
        extends top attract attracts""",
    -0.8: """hit hits correction crisis mixed volatile volatility concern pressured subdued muted lacklustre
        lackluster dull range-bound consolidate postpones postponed delay delays delayed temporary
        personnel-cuts negotiations exit exits exited quits resigns resignation short away debt
        debts liquidity avoid flat-to-lower fined dispute disputes review investigation uncertain
        uncertainty unlikely reshuffle cool cools cooled cooling vacates hedge dumps-stake halts
        underweight trims trimmed""",
    -1.5: """sell cautious choppy caution down below low lower lows short-selling selling sells sold-off loser
        losers negative bearish puts weak weaker weakness red retreats retreat retreated ease eases
        eased dip dips dipped dipping lag lags lagged lagging underperform underperforms
        underperformed underperforming cut cuts cutting reduce reduces reduced reducing reduction
        shrink shrinks shrank shrinking narrowed-margin pressure pressures headwind headwinds
        bottomline-hit hurts hurt hurting drag drags dragged dragging weigh weighs weighed soften
        softens softened softer sluggish slow slows slowed slower slowing slowdown decelerate
        decelerates outflow outflows overvalued overbought expensive disappoint poor costlier
        downward downwards downtrend downside layoff layoffs lay-offs redundancies fears fear
        worries worry worried concerns woes woe bleed bleeds crack cracks bottom edges-lower lose
        loses lost losing erode erodes eroded erosion shortfall shortage strike strikes recall
        recalls recalled probe probes sued sues lawsuit lawsuits suspends suspended suspend ban bans
        banned dilution dilutive doubts sour""",
    -2.2: """fall falls fell falling fallen drop drops dropped dropping decline declines declined declining
        decrease decreases decreased decreasing slip slips slipped slipping slide slides slid
        sliding tumble tumbles tumbled sink sinks sank sinking loss losses miss misses missed
        missing downgrade downgrades downgraded warning warns warned widen widens widened widening
        weaken weakens weakened weakening deteriorate deteriorates deteriorated deteriorating worst
        worse worsen worsens worsened profit-taking unprofitable impairment writedown write-down
        writeoff write-off shortfalls disappointing disappoints disappointed disappointment bust
        reject rejects rejected fails fail failed failing halted penalty scam fraud fraudulent
        subpoena breach default defaults defaulted insolvent lowest sell-off selloff dumped dump
        dumps""",
    -3.0: """plunge plunges plunged plunging slump slumps slumped slumping plummet plummets plummeted plummeting
        tank tanks tanked tanking crash crashes crashed crashing collapse collapses collapsed rout
        bankrupt bankruptcy bankruptcies liquidation nosedive nosedives nosedived crater craters
        cratered meltdown bloodbath wipeout delisted delisting""",
    # Words with a valence in general English and none in finance.
    0.0: """edges asset assets entertainment hero nifty surprise surprises valued firms risk risks share shares
        sharing interest interests interested security securities energy value values gross crude
        party parties treat treatment trust united novel vice cancer charge charges chance care
        health natural pay paid please gold fire war force forces defense defence special active
        original solution solutions number credit credits creditor creditors free friend intelligent
        welcome join joined festival fair fund game hand huge kind matter play player players ready
        save significant significantly smart sure true useful wealth worth yes zone amazing-offer
        commit committed committee important alert no-load ha well like best great top-level
        innovation innovative innovations promoter promoters promote allow allows clear leading
        profit profits profitability net stop hard heavy limited gas oil defensive contingent
        foreign death mine gravity critical problem problems block rigid tolerance argue cancel
        arrest murder violence easy brilliant luck casual feeling feelings ease-of comprehensive
        cool-roof capital ensure ensures assure efficient-use safe safety want wants wanted popular
        approach dedicated entitled honor engaged encourage award awards agree agrees fresh adequate
        dear advantage advantages intelligence freedom optimum outstanding excellence excellent
        premier prestigious premium exclusive progress supreme fine pure protect protected
        protection perfect relief grand glad proud vision""",
}

WORD_VALENCES: Final[dict[str, float]] = {
    word: valence for valence, listed in _BY_VALENCE.items() for word in listed.split()
}

# Subjects of which less is better: an amount word near one of them has the opposite meaning.
INVERTING_WORDS: Final = frozenset(
    _split_words(
        """loss losses deficit debt debts cost costs expense expenses inflation unemployment jobless
        layoffs churn default defaults npa npas npl npls impairments provisions provisioning
        liabilities shortfall burn borrowing borrowings claims slippages delinquencies
        redundancies inventory inventories emissions tax taxes tariffs dues charges leverage
        vacancy vacancies attrition arrears"""
    )
)
# Amount words: their meaning depends on their subject.
INCREASE_WORDS: Final = frozenset(
    _split_words(
        """rise rises rose rising increase increases increased increasing grow grows grew growing climb
        climbs climbed jump jumps jumped surge surges surged soar soars soared widen widens
        widened widening swell swells swelled up higher mounting mounts mount doubles doubled"""
    )
)
DECREASE_WORDS: Final = frozenset(
    _split_words(
        """fall falls fell falling drop drops dropped decline declines declined decrease decreases
        decreased decreasing narrow narrows narrowed narrowing shrink shrinks shrank cut cuts
        cutting reduce reduces reduced reducing lower down lowers lowered pare pares pared trims
        trimmed trim ease eases eased slash slashes slashed halves halved contain eliminate
        reduction"""
    )
)

# (parts of words, one of which the text must contain; the pattern; the token that replaces it; the token's valence).
# Tried in this order, on lower-case text.
_PHRASES: Final = (
    # neither good nor bad
    ("term", r"\b(?:short|long|near|medium)[- ]?term\b", "xterm", 0.0),
    ("short", r"\bshort\s+(?:interest|squeeze|list|film|story)\b", "xshortword", 0.0),
    ("stop", r"\bstop[- ]?loss(?:es)?\b", "xstop", 0.0),
    ("profit p&l", r"\b(?:profit\s+and\s+loss|p&l)\b", "xpnl", 0.0),
    (
        "up",
        r"\b(?:set|sets|sized?|start|ramp|warm|back|top|line|speed|follow|round|make|made|follows)[- ]up\b",
        "xup", 0.0,
    ),
    ("side", r"\b(?:buy|sell|hold)[- ]side\b", "xside", 0.0),
    ("low", r"\b(?:low|lower)[- ](?:cost|carbon|emission|fare|power|voltage)\b", "xlow", 0.2),
    ("order", r"\b(?:in|on|by)\s+order\s+to\b", "xorderto", 0.0),
    (
        "capital",
        (r"\b(?:increase|increases|increased|raise|raises|raised|cut|reduce)d?\s+(?:the\s+)?(?:share"
        r"\s+)?capital\b"),
        "xcapital", 0.0,
    ),
    ("reduc", r"\breduc\w+\s+(?:the\s+)?(?:environmental|carbon|energy)\b", "xgreen", 0.3),
    ("down", r"\bbreak\s+down\s+of\b|\bbroken\s+down\b", "xbreakdown", 0.0),
    ("how", r"\bhow\s+to\b", "xhow", 0.0),
    # better than the single words
    (
        "loss",
        (r"\b(?:net\s+|operating\s+|pre-?tax\s+|quarterly\s+)*loss(?:es)?\s+(?:\w+\s+){0,2}?(?:narrow\w*"
        r"|shrinks?|shrank|shrunk|halves|halved|contracts?)\b"),
        "xlossnarrows", 2.2,
    ),
    ("narrow", r"\bnarrow(?:s|ed|er|ing)?\s+(?:\w+\s+){0,3}?loss(?:es)?\b", "xnarrowloss", 2.2),
    (
        "profit black",
        (r"\b(?:swings?|swung|turns?|turned|returns?|returned|back|moved?)\s+(?:\w+\s+)?(?:to|into|in)"
        r"\s+(?:a\s+|the\s+)?(?:net\s+|operating\s+)*(?:profit\w*|black)\b"),
        "xtoprofit", 2.5,
    ),
    ("loss", r"\bfrom\s+(?:a\s+)?(?:\w+[- ]){0,3}loss\b", "xfromloss", 0.8),
    (
        "beat top exceed surpass above ahead better higher",
        (r"\b(?:beats?|tops?|topped|exceed\w*|surpass\w*|above|ahead\s+of|better[- ]than|higher"
        r"\s+than)[- ](?:\w+['’]?s?\s+){0,3}?(?:estimates?|expect\w*|forecasts?|consensus|street|views?"
        r"|predictions?|target)\b"),
        "xbeats", 2.8,
    ),
    (
        "rais lift hike up boost",
        (r"\b(?:raises?|raised|lifts?|lifted|hikes?|hiked|ups|upped|boosts?|boosted|upgrades?)\s+(?:\w+"
        r"\s+){0,4}?(?:guidance|outlook|forecasts?|targets?|estimates?|dividend|stake)\b"),
        "xraises", 2.8,
    ),
    (
        "high hod ath",
        (r"\b(?:all[- ]time|record|52[- ]?week|multi[- ]?year|\d+[- ](?:week|month|year)|fresh|new"
        r"|life(?:time)?|one[- ]year)[- ]highs?\b|\b(?:hod|ath)\b"),
        "xhigh", 2.3,
    ),
    (
        "appro clear nod",
        (r"\bfda\s+(?:\w+\s+){0,2}?(?:approv\w+|clear\w+|nod)\b|\bapproved\s+by\s+(?:the\s+)?fda\b"
        r"|\b(?:gets?|wins?|receives?|won)\s+(?:\w+\s+){0,4}?(?:approval|nod|clearance)\b"),
        "xapproved", 3.0,
    ),
    (
        "point goal",
        r"\b(?:meets?|met)\s+(?:its\s+|the\s+)?(?:primary|main|key)\s+(?:end\s?point|goal)s?\b",
        "xendpointmet", 3.0,
    ),
    (
        "offer bid acquired bought",
        (r"\b(?:to\s+be\s+acquired|takeover\s+(?:bid|offer)|buyout\s+offer|agrees?\s+to\s+be\s+bought"
        r"|open\s+offer)\b"),
        "xtakeover", 2.5,
    ),
    ("stake", r"\b(?:stake\s+in|buys?\s+(?:a\s+)?(?:\d+\S*\s+)?stake)\b", "xstake", 0.4),
    ("end", r"\b(?:higher|top|upper)\s+end\b", "xupperend", 1.0),
    (
        "cross flag out",
        r"\b(?:golden|bull(?:ish)?)\s+(?:cross|flag)\b|\bbreak(?:s|ing)?\s?out\b|\bbroke\s+out\b",
        "xbullchart", 2.0,
    ),
    (
        "long",
        r"\b(?:go(?:ing)?|went|am|got|stay(?:ing)?)\s+long\b|\blong\s+(?:setup|position|idea)\b",
        "xgolong", 2.0,
    ),
    (
        "buy top",
        r"\b(?:strong|outright)\s+buy\b|\btop\s+(?:picks?|bets?)\b|\bbuy\s+rating\b",
        "xbuyrating", 2.2,
    ),
    (
        "target",
        r"\btarget\s+(?:price\s+)?(?:of|raised|rs|at|to|price)\b|\btargets?\s+(?:of\s+)?(?:rs\s*|\$)?\d",
        "xtarget", 0.8,
    ),
    ("cost", r"\bcost\s+(?:savings?|reductions?|cuts?)\b|\bcuts?\s+costs?\b", "xcostcuts", 1.0),
    # worse than the single words
    (
        "miss below under short lag lower worse trail",
        (r"\b(?:miss(?:es|ed)?|below|under|short\s+of|lags?|lower\s+than|worse[- ]than"
        r"|trails?)[- ](?:\w+['’]?s?\s+){0,3}?(?:estimates?|expect\w*|forecasts?|consensus|street"
        r"|views?)\b"),
        "xmisses", -2.8,
    ),
    (
        "cut lower slash trim reduc withdr suspend",
        (r"\b(?:cuts?|lowers?|lowered|slash\w*|trims?|trimmed|reduces?|reduced|withdr[ae]ws?|suspends?)"
        r"\s+(?:\w+\s+){0,4}?(?:guidance|outlook|forecasts?|targets?|estimates?|dividend|stake|rating)\b"),
        "xcutsview", -2.6,
    ),
    ("profit", r"\bprofit[- ](?:warning|taking|booking)\b", "xprofitwarning", -2.2),
    (
        "fail struggl unable refus",
        r"\b(?:fail(?:s|ed)?|struggl(?:es?|ed|ing)|unable|refus(?:es?|ed))\s+to\s+\w+",
        "xfailsto", -2.2,
    ),
    (
        "loss red",
        (r"\b(?:swings?|swung|slips?|slipped|turns?|falls?|fell|sinks?|lands?|plunges?|plunged)\s+(?:\w+"
        r"\s+){0,3}?(?:to|into|in)\s+(?:a\s+|the\s+)?(?:\w+\s+)?(?:loss(?:es)?|red)\b"),
        "xtoloss", -2.8,
    ),
    ("profit", r"\bfrom\s+(?:a\s+)?(?:\w+[- ]){0,3}profit\b", "xfromprofit", -1.0),
    (
        "low",
        (r"\b(?:all[- ]time|record|52[- ]?week|multi[- ]?(?:year|month)|\d+[- ](?:week|month|year)|fresh"
        r"|new|life(?:time)?)[- ]lows?\b"),
        "xlowest", -2.3,
    ),
    (
        "complete clinical meet endpoint",
        (r"\b(?:complete\s+response\s+letter|clinical\s+hold|fails?\s+to\s+meet|did\s+not\s+meet|missed"
        r"\s+(?:\w+\s+)?endpoint)\b"),
        "xtrialfails", -3.0,
    ),
    (
        "concern chapter margin class short",
        (r"\b(?:going\s+concern|chapter\s+(?:7|11)|margin\s+call|class[- ]action|short[- ]seller"
        r"\s+report)\b"),
        "xdistress", -2.5,
    ),
    (
        "offering dilut split",
        (r"\b(?:secondary|public|stock|share|direct)\s+offering\b|\bdilut\w+\b|\breverse\s+(?:stock"
        r"\s+)?split\b"),
        "xoffering", -2.0,
    ),
    (
        "cut job off staff work head personnel",
        (r"\b(?:job|staff|work\s?force|head\s?count|personnel)\s+(?:cuts?|reductions?|losses)\b|\bcut(?:s"
        r"|ting)?\s+(?:\w+\s+){0,2}jobs\b|\b(?:lay|laid|laying|lays)\s+off\b"),
        "xjobcuts", -1.6,
    ),
    ("end", r"\b(?:lower|bottom|low)\s+end\b", "xlowerend", -1.0),
    (
        "cross flag down shoulders",
        (r"\b(?:death|bear(?:ish)?)\s+(?:cross|flag)\b|\bbreak(?:s|ing)?\s?down\b|\bbroke\s+down\b"
        r"|\bhead\s+(?:and|&)\s+shoulders\b"),
        "xbearchart", -2.0,
    ),
    (
        "short out",
        (r"\b(?:go(?:ing)?|went|am|got|stay(?:ing)?|nice|still)\s+short\b|\bshort\s+(?:setup|position|idea"
        r"|here)\b|\b(?:am|getting|get)\s+out\s+of\b"),
        "xgoshort", -2.0,
    ),
    (
        "weigh take",
        (r"\bweigh(?:s|ed|ing)?\s+(?:on|down)\b|\btake\s+(?:a\s+|further\s+)?(?:hit|knock|toll)\b"
        r"|\btakes?\s+toll\b"),
        "xweighs", -2.0,
    ),
    (
        "asset margin",
        r"\b(?:asset\s+quality|margin)\s+(?:\w+\s+)?(?:pressure|concerns?|woes?|squeeze)\b",
        "xsqueeze", -2.2,
    ),
)  # fmt: skip
PHRASES: Final = tuple(
    (tuple(parts.split()), re.compile(pattern), f" {token} ") for parts, pattern, token, _ in _PHRASES
)
FINANCE_LEXICON: Final[dict[str, float]] = WORD_VALENCES | {
    token: valence for _, _, token, valence in _PHRASES
}
