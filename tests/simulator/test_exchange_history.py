"""The account's past as a client may ask for it: steps, periods, profit, the money that moved; also after a restart."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from catalyst.simulator.admin.audit import audit
from catalyst.simulator.exchange.persistence import Journal
from tests.simulator.exchange_scenario import Desk
from tests.simulator.manual_feed import HALF_DAY, MONDAY, at
from tests.simulator.served_exchange import Wire, wired

TUESDAY = MONDAY.replace(day=10)
WEDNESDAY = MONDAY.replace(day=11)
PATH = "/v2/account/portfolio/history"


def week(desk: Desk) -> None:
    """Ten shares from Monday's 100.01 to 105, a deposit on Tuesday at noon, sold on Wednesday at 107.99."""
    desk.holds("AAPL", 10)
    desk.tape.trades("AAPL", at("15:59"), "105")
    desk.tape.trades("AAPL", at("10:00", TUESDAY), "110")
    desk.tape.trades("AAPL", at("15:00", TUESDAY), "106")
    desk.exchange.advance(at("12:00", TUESDAY))
    desk.exchange.deposit(desk.exchange.account.cash * 0 + 500)
    desk.tape.trades("AAPL", at("09:31", WEDNESDAY), "108")
    desk.exchange.advance(at("09:40", WEDNESDAY))
    desk.sends("sell", 10)
    desk.exchange.advance(at("10:32:30", WEDNESDAY))


@pytest.fixture
def desk() -> Desk:
    desk = Desk(start=at("15:00"))
    week(desk)
    return desk


async def asked(wire: Wire, **query: Any) -> Any:
    response = await wire.http_("GET", PATH, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def clock(labels: list[int]) -> list[str]:
    return [f"{datetime.fromtimestamp(label, at('12:00').tzinfo or UTC):%d %H:%M}" for label in labels]


async def test_days_are_the_closes_and_now(desk: Desk) -> None:
    """A point a session; profit since the base, without what was deposited; a running day is worth what it is now."""
    async with wired(desk=desk) as wire:
        told = await asked(wire, period="1W")
        assert told["timeframe"] == "15Min"
        told = await asked(wire, period="1M", cashflow_types="ALL")
        assert told["timeframe"] == "1D"
        assert told["equity"] == [100049.9, 100559.9, 100579.8]
        assert told["profit_loss"] == [49.9, 59.9, 79.8]
        assert told["profit_loss_pct"] == pytest.approx([0.000499, 0.000599, 0.000798])
        assert (told["base_value"], "base_value_asof" in told) == (100000, False)
        assert told["cashflow"] == {"CSD": [0, 500, 0]}
        assert told["timestamp"] == [
            int(at("20:00", day).timestamp()) for day in (MONDAY, TUESDAY, WEDNESDAY)
        ]


async def test_steps_of_a_day_begin_at_its_bell_and_count_from_yesterdays_close(desk: Desk) -> None:
    """An hour a step, each worth what the account was at its end; the last is now."""
    async with wired(desk=desk) as wire:
        told = await asked(wire, start="2026-03-10", end="2026-03-10T23:00:00-04:00", timeframe="1H")
        assert clock(told["timestamp"]) == [f"10 {hour}:30" for hour in range(13, 20)]
        assert told["equity"] == [100099.9, 100099.9, 100599.9, 100599.9, 100599.9, 100559.9, 100559.9]
        assert told["profit_loss"] == [50, 50, 50, 50, 50, 10, 10]
        assert (told["base_value"], told["base_value_asof"]) == (100049.9, "2026-03-09")
        today = await asked(wire, period="1D", timeframe="1Min")
        assert len(today["timestamp"]) == 63  # from 9:30 to the running minute
        assert (today["equity"][0], today["equity"][1], today["equity"][-1]) == (100559.9, 100579.9, 100579.8)
        assert today["base_value_asof"] == "2026-03-10"


async def test_profit_starts_anew_each_day_unless_asked_otherwise(desk: Desk) -> None:
    """`per_day` counts from each day's previous close, `no_reset` from the first one."""
    async with wired(desk=desk) as wire:
        query = {"start": "2026-03-10", "end": "2026-03-11T12:00:00-04:00", "timeframe": "1H"}
        per_day = await asked(wire, **query)
        through = await asked(wire, **query, pnl_reset="no_reset")
        assert per_day["profit_loss"][-2:] == [19.9, 19.9]
        assert through["profit_loss"][-2:] == [29.9, 29.9]
        assert per_day["profit_loss"][:7] == through["profit_loss"][:7]
        assert per_day["equity"] == through["equity"]


@pytest.mark.parametrize(
    ("reporting", "first", "last", "points"),
    [
        ({"intraday_reporting": "market_hours"}, "10 13:30", "10 19:30", 7),
        ({"intraday_reporting": "extended_hours"}, "10 08:00", "11 00:00", 17),
        ({"extended_hours": "true"}, "10 08:00", "11 00:00", 17),
        ({"intraday_reporting": "continuous"}, "10 04:00", "11 03:00", 24),
    ],
)
async def test_which_hours_are_told(
    desk: Desk, reporting: dict[str, str], first: str, last: str, points: int
) -> None:
    """The regular session, the extended one, or the whole clock."""
    async with wired(desk=desk) as wire:
        told = await asked(
            wire, start="2026-03-10", end="2026-03-10T23:59:59-04:00", timeframe="1H", **reporting
        )
        labels = clock(told["timestamp"])
        assert (labels[0], labels[-1], len(labels)) == (first, last, points)


async def test_a_half_day_has_fewer_steps() -> None:
    """The session of the day after Thanksgiving ends at one."""
    desk = Desk(start=at("09:30", HALF_DAY))
    desk.exchange.advance(at("15:00", HALF_DAY))
    async with wired(desk=desk) as wire:
        told = await asked(wire, period="1D", timeframe="15Min")
        assert (len(told["timestamp"]), told["timestamp"][-1]) == (15, int(at("13:00", HALF_DAY).timestamp()))


async def test_a_weekend_has_no_points(desk: Desk) -> None:
    """As the real one answered: empty lists and no base."""
    async with wired(desk=desk) as wire:
        told = await asked(wire, period="1D", timeframe="1D", date_end="2026-03-08")
        assert (told["timestamp"], told["equity"], told["base_value"]) == ([], [], 0)


async def test_periods_end_where_they_are_told(desk: Desk) -> None:
    """A day and a week count their last day; `date_end` is the older word; a start may be given instead."""
    async with wired(desk=desk) as wire:
        for query, days in (
            ({"period": "1D", "date_end": "2026-03-10"}, [TUESDAY]),
            ({"period": "2D", "end": "2026-03-10T12:00:00-04:00"}, [MONDAY, TUESDAY]),
            ({"period": "1W", "date_end": "2026-03-11"}, [MONDAY, TUESDAY, WEDNESDAY]),
            ({"period": "1A"}, [MONDAY, TUESDAY, WEDNESDAY]),
            ({"start": "2026-03-10", "period": "1D"}, [TUESDAY]),
            ({"start": "2026-03-10"}, [TUESDAY, WEDNESDAY]),
        ):
            told = await asked(wire, timeframe="1D", **query)
            assert told["timestamp"] == [int(at("20:00", day).timestamp()) for day in days], query


@pytest.mark.parametrize(
    "query",
    [
        {"period": "1X"},
        {"period": "0D"},
        {"period": "1M", "start": "2026-03-10", "end": "2026-03-11"},
        {"start": "2026-03-11", "end": "2026-03-10"},
        {"timeframe": "2Min"},
        {"period": "2M", "timeframe": "1H"},
        {"intraday_reporting": "never"},
        {"pnl_reset": "never"},
        {"start": "yesterday"},
    ],
)
async def test_senseless_questions_are_refused(desk: Desk, query: dict[str, str]) -> None:
    """422, and the parameter is named."""
    async with wired(desk=desk) as wire:
        response = await wire.http_("GET", PATH, params=query)
        assert (response.status_code, response.json()["code"]) == (422, 40010001)


async def test_a_restart_changes_nothing_of_the_past(tmp_path: Path, desk: Desk) -> None:
    """The same answers from what the journal kept, days and minutes alike."""
    Journal(tmp_path).save(desk.exchange)
    again = Desk(start=at("15:00"))
    again.tape = desk.tape
    again.exchange.market = desk.tape
    Journal(tmp_path).restore(again.exchange)
    assert audit(again.exchange).clean
    queries: list[dict[str, str]] = [
        {"period": "1M", "cashflow_types": "CSD,FEE"},
        {"period": "3D", "timeframe": "5Min"},
    ]
    async with wired(desk=desk) as wire, wired(desk=again) as other:
        for query in queries:
            assert await asked(wire, **query) == await asked(other, **query)


async def test_transfers_are_activities_of_their_own_day(desk: Desk) -> None:
    """What the account began with, a later deposit and a withdrawal: three rows, filtered by type, day and family."""
    desk.exchange.deposit(desk.exchange.account.cash * 0 - 200)
    async with wired(desk=desk) as wire:

        async def rows(path: str = "", **query: str) -> list[tuple[str, str, str]]:
            response = await wire.http_("GET", f"/v2/account/activities{path}", params=query)
            assert response.status_code == 200, response.text
            return [(r["activity_type"], r.get("date", ""), r.get("net_amount", "")) for r in response.json()]

        begun, paid, drawn = (
            ("CSD", "2026-03-09", "100000"),
            ("CSD", "2026-03-10", "500"),
            ("CSW", "2026-03-11", "-200"),
        )
        assert await rows("/CSD") == [paid, begun]
        assert await rows("/TRANS", direction="asc") == [begun, paid, drawn]
        assert await rows(category="non_trade_activity") == [drawn, paid, begun]
        assert await rows(activity_types="CSW,FEE") == [drawn]
        assert await rows("/CSD", date="2026-03-10") == [paid]
        assert await rows("/TRANS", until="2026-03-10T12:00:00-04:00") == [begun]
        assert await rows("/TRANS", after="2026-03-10T12:00:00-04:00") == [drawn]
        assert [kind for kind, _, _ in await rows(category="trade_activity")] == ["FILL", "FILL"]
        assert await rows("/DIV") == []
        for wrong in (
            "/NOPE",
            "?category=odd",
            "?category=trade_activity&activity_types=FILL",
            "?date=2026-03-10&after=2026-03-09",
            "?page_size=101",
        ):
            assert (await wire.http_("GET", f"/v2/account/activities{wrong}")).status_code == 422, wrong


async def test_fees_are_two_activities_a_day_each_rounded_up() -> None:
    """The SEC's and FINRA's, of the day's sales, dated the day; the cash is short of exactly these."""
    desk = Desk(start=at("15:00"))
    desk.exchange.switches.charge_fees = True
    desk.holds("AAPL", 30)
    for _ in range(2):
        desk.sends("sell", 15)
        desk.passes()
    desk.until("16:00")
    async with wired(desk=desk) as wire:
        told = (await wire.http_("GET", "/v2/account/activities/FEE", params={"direction": "asc"})).json()
        assert {(row["activity_sub_type"], row["net_amount"], row["date"]) for row in told} == {
            ("REG", "-0.07", "2026-03-09"),  # 2999.7 * 0.0000206 = 0.06179382
            ("TAF", "-0.01", "2026-03-09"),  # 30 * 0.000195 = 0.00585
        }
        assert (await wire.asks(wire.client.get_account))["cash"] == "99999.32"
        assert (await wire.http_("GET", "/v2/account/activities/MISC")).json() == told[::-1]
    desk.balanced()
