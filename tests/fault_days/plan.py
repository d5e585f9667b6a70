"""Plan of a fault day: market, fault rates and incidents, all drawn from one seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, time
from enum import StrEnum
from typing import Final

from catalyst.domain.refusals import KNOWN_REFUSALS, KnownRefusal
from catalyst.simulator.faults.rules import FaultKind
from tests.fault_days.network import NetworkFault

# Kinds after which no daemon can be right, or that its requests never meet.
EXCLUDED_KINDS: Final = frozenset(
    {
        FaultKind.DOUBLE_EXIT,  # the exchange itself crosses zero
        FaultKind.LIQUIDATE_FAIL,  # the daemon never sends this request
    }
)
# Kinds with a few occasions a day: a trigger of a stop, a handshake, a refused cancel.
RARE_KINDS: Final = frozenset(
    {
        FaultKind.GAP,
        FaultKind.NO_TRIGGER,
        FaultKind.STOP_REPLACED,
        FaultKind.REPLACE_REJECT,
        FaultKind.CANCEL_LOSES,
        FaultKind.CANCEL_REJECT,
        FaultKind.CANCEL_DELAY,
        FaultKind.LEG_REJECT,
        FaultKind.LEG_CANCEL,
        FaultKind.HALT,
        FaultKind.REJECT,
        FaultKind.NEVER_ACK,
        FaultKind.PARTIAL,
        FaultKind.POSITION_LAG,
        FaultKind.VISIBILITY,
        FaultKind.CLOCK_SKEW,
        FaultKind.STREAM_REFUSE,
        FaultKind.STREAM_BUSY,
        FaultKind.STREAM_SECOND,
    }
)
FAULT_KINDS: Final = tuple(kind for kind in FaultKind if kind not in EXCLUDED_KINDS)
RATES: Final = (0.003, 0.005, 0.007, 0.01)
RARE_RATES: Final = (0.01, 0.02, 0.04)
HANGING_KINDS: Final = frozenset(
    {FaultKind.HANG, FaultKind.HANG_BEFORE}
)  # each lasts until a time-out in real seconds
HANGING_RATE: Final = 0.001
SHARE_OF_KINDS: Final = 0.8  # of all kinds, in one day

ORDINARY_DAY: Final = date(2026, 6, 17)
HALF_DAY: Final = date(2026, 11, 27)
DURATIONS_S: Final = (2.0, 6.0, 15.0, 40.0)  # market seconds
SIGTERM_SHARE: Final = 0.15  # of the whole days
REQUESTS: Final = (b"POST /v2/orders ", b"DELETE /v2/orders/", b"PATCH /v2/orders/")


class IncidentKind(StrEnum):
    """Everything that happens at once, beside the faults by probability."""

    KILL_DAEMON = "daemon killed"
    PAUSE_DAEMON = "daemon paused"
    KILL_DATABASE = "postmaster killed"
    KILL_EXCHANGE = "exchange killed"
    EXCHANGE_NETWORK = "network to the exchange"
    DATABASE_NETWORK = "network to the database"
    REFUSED_SALES = "sales refused"
    LATE_LISTS = "lists of orders eight seconds late"


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident: from `at` on (minutes after the start), at the next `request` if there is one, for `seconds`.

    `before`: the request does not pass first. `network` and `delay_s` (real seconds) belong to the kinds of network,
    `refusal` to refused sales.
    """

    at: float
    kind: IncidentKind
    seconds: float
    request: bytes | None = None
    before: bool = True
    network: NetworkFault | None = None
    delay_s: float = 0.0
    refusal: KnownRefusal | None = None

    def __str__(self) -> str:
        detail = self.network or (self.refusal and self.refusal.reason)
        what = f"{self.kind} ({detail})" if detail else str(self.kind)
        moment = "before" if self.before else "after"
        when = f", {moment} {self.request.decode().strip()}" if self.request else ""
        return f"{self.at:.0f} min: {what} for {self.seconds:.0f} s{when}"


@dataclass(frozen=True, slots=True)
class DayPlan:
    """Everything that one seed draws."""

    seed: int
    day: date
    start: time  # New York
    symbols: int
    rates: dict[FaultKind, float]
    incidents: tuple[Incident, ...]
    sigterm_at: float | None = None  # minutes after the start; None: the daemon ends the day itself

    @property
    def minutes(self) -> float:
        """Return the minutes from the start to the close."""
        close = time(13) if self.day == HALF_DAY else time(16)
        return (close.hour - self.start.hour) * 60 + close.minute - self.start.minute

    def __str__(self) -> str:
        lines = [
            f"seed {self.seed}: {self.day} from {self.start:%H:%M}, {len(self.rates)} fault kinds",
        ]
        lines += [str(incident) for incident in self.incidents]
        lines += [] if self.sigterm_at is None else [f"{self.sigterm_at:.0f} min: SIGTERM"]
        return "\n  ".join(lines)


def draw_plan(seed: int, *, short: bool = False) -> DayPlan:
    """Draw a whole day, or a short one: the last 90 minutes, with three incidents that are not long."""
    draw = random.Random(seed)
    kinds = [kind for kind in FAULT_KINDS if draw.random() < SHARE_OF_KINDS]
    rates = {kind: draw.choice(RARE_RATES if kind in RARE_KINDS else RATES) for kind in kinds}
    rates |= dict.fromkeys(HANGING_KINDS & rates.keys(), HANGING_RATE)
    day = HALF_DAY if not short and draw.random() < 0.1 else ORDINARY_DAY
    start = time(14, 30) if short else time(9, 20)
    plan = DayPlan(seed, day, start, 300, rates, ())
    count = 3 if short else round(plan.minutes / 390 * draw.randint(8, 14))
    # The end of the day has the most exits: a third of the incidents hits its last quarter of an hour.
    times = [
        draw.uniform(plan.minutes - 15, plan.minutes - 1)
        if draw.random() < 1 / 3
        else draw.uniform(12, plan.minutes - 15)
        for _ in range(count)
    ]
    durations = DURATIONS_S[:-1] if short else DURATIONS_S
    incidents = tuple(_draw_incident(draw, at, durations) for at in sorted(times))
    has_sigterm = not short and draw.random() < SIGTERM_SHARE
    sigterm_at = draw.uniform(60, plan.minutes - 2) if has_sigterm else None
    return DayPlan(seed, day, start, 300, rates, incidents, sigterm_at)


def _draw_incident(draw: random.Random, at: float, durations: Sequence[float]) -> Incident:
    kind = draw.choice([*IncidentKind, IncidentKind.KILL_DAEMON])
    request = draw.choice(REQUESTS) if draw.random() < 0.6 else None
    is_network = kind in (IncidentKind.EXCHANGE_NETWORK, IncidentKind.DATABASE_NETWORK)
    return Incident(
        at,
        kind,
        draw.choice(durations),
        request,
        draw.random() < 0.5,
        draw.choice(list(NetworkFault)) if is_network else None,
        draw.choice((0.1, 0.5, 2.0)),
        draw.choice(KNOWN_REFUSALS) if kind is IncidentKind.REFUSED_SALES else None,
    )
