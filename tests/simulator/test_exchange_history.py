"""Portfolio history and cash activities: timeframes, periods, profit, transfers, fees; also after a restart."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from catalyst.simulator.admin.audit import audit
from catalyst.simulator.exchange.persistence import Journal
from tests.simulator.exchange_scenario import ExchangeScenario
from tests.simulator.manual_feed import HALF_DAY, MONDAY, at
from tests.simulator.served_exchange import ServedExchange, serve_exchange

TUESDAY = MONDAY.replace(day=10)
WEDNESDAY = MONDAY.replace(day=11)
PATH = "/v2/account/portfolio/history"


def trade_three_days(scenario: ExchangeScenario) -> None:
    """Buy ten shares at 100.01 on Monday (close 105), deposit on Tuesday noon, sell on Wednesday at 107.99."""
    scenario.given_position("AAPL", 10)
    scenario.feed.add_trade("AAPL", at("15:59"), "105")
    scenario.feed.add_trade("AAPL", at("10:00", TUESDAY), "110")
    scenario.feed.add_trade("AAPL", at("15:00", TUESDAY), "106")
    scenario.exchange.venue.advance(at("12:00", TUESDAY))
    scenario.exchange.deposit(scenario.exchange.state.account.cash * 0 + 500)
    scenario.feed.add_trade("AAPL", at("09:31", WEDNESDAY), "108")
    scenario.exchange.venue.advance(at("09:40", WEDNESDAY))
    scenario.submit("sell", 10)
    scenario.exchange.venue.advance(at("10:32:30", WEDNESDAY))


@pytest.fixture
def scenario() -> ExchangeScenario:
    scenario = ExchangeScenario(start=at("15:00"))
    trade_three_days(scenario)
    return scenario


async def get_history(served: ServedExchange, **query: Any) -> Any:
    response = await served.request("GET", PATH, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def label_times(labels: list[int]) -> list[str]:
    return [f"{datetime.fromtimestamp(label, at('12:00').tzinfo or UTC):%d %H:%M}" for label in labels]


async def test_daily_history_has_each_close_and_the_current_equity(scenario: ExchangeScenario) -> None:
    """Each session has one point; profit counts from the base without deposits; today's point is the current
    equity."""
    async with serve_exchange(scenario=scenario) as served:
        reported = await get_history(served, period="1W")
        assert reported["timeframe"] == "15Min"
        reported = await get_history(served, period="1M", cashflow_types="ALL")
        assert reported["timeframe"] == "1D"
        assert reported["equity"] == [100049.9, 100559.9, 100579.8]
        assert reported["profit_loss"] == [49.9, 59.9, 79.8]
        assert reported["profit_loss_pct"] == pytest.approx([0.000499, 0.000599, 0.000798])
        assert (reported["base_value"], "base_value_asof" in reported) == (100000, False)
        assert reported["cashflow"] == {"CSD": [0, 500, 0]}
        assert reported["timestamp"] == [
            int(at("20:00", day).timestamp()) for day in (MONDAY, TUESDAY, WEDNESDAY)
        ]


async def test_intraday_history_starts_at_the_open_from_the_last_close(scenario: ExchangeScenario) -> None:
    """Each point has the equity at the end of its hour; the last point is now."""
    async with serve_exchange(scenario=scenario) as served:
        reported = await get_history(
            served, start="2026-03-10", end="2026-03-10T23:00:00-04:00", timeframe="1H"
        )
        assert label_times(reported["timestamp"]) == [f"10 {hour}:30" for hour in range(13, 20)]
        assert reported["equity"] == [100099.9, 100099.9, 100599.9, 100599.9, 100599.9, 100559.9, 100559.9]
        assert reported["profit_loss"] == [50, 50, 50, 50, 50, 10, 10]
        assert (reported["base_value"], reported["base_value_asof"]) == (100049.9, "2026-03-09")
        today = await get_history(served, period="1D", timeframe="1Min")
        assert len(today["timestamp"]) == 63  # from 9:30 to the running minute
        assert (today["equity"][0], today["equity"][1], today["equity"][-1]) == (100559.9, 100579.9, 100579.8)
        assert today["base_value_asof"] == "2026-03-10"


async def test_history_profit_resets_daily_unless_no_reset(scenario: ExchangeScenario) -> None:
    """`per_day` counts from each day's previous close, `no_reset` from the first one."""
    async with serve_exchange(scenario=scenario) as served:
        query = {"start": "2026-03-10", "end": "2026-03-11T12:00:00-04:00", "timeframe": "1H"}
        per_day = await get_history(served, **query)
        no_reset = await get_history(served, **query, pnl_reset="no_reset")
        assert per_day["profit_loss"][-2:] == [19.9, 19.9]
        assert no_reset["profit_loss"][-2:] == [29.9, 29.9]
        assert per_day["profit_loss"][:7] == no_reset["profit_loss"][:7]
        assert per_day["equity"] == no_reset["equity"]


@pytest.mark.parametrize(
    ("reporting", "first", "last", "points"),
    [
        ({"intraday_reporting": "market_hours"}, "10 13:30", "10 19:30", 7),
        ({"intraday_reporting": "extended_hours"}, "10 08:00", "11 00:00", 17),
        ({"extended_hours": "true"}, "10 08:00", "11 00:00", 17),
        ({"intraday_reporting": "continuous"}, "10 04:00", "11 03:00", 24),
    ],
)
async def test_history_hours_follow_intraday_reporting(
    scenario: ExchangeScenario, reporting: dict[str, str], first: str, last: str, points: int
) -> None:
    """Points cover the regular session, the extended session or all 24 hours."""
    async with serve_exchange(scenario=scenario) as served:
        reported = await get_history(
            served, start="2026-03-10", end="2026-03-10T23:59:59-04:00", timeframe="1H", **reporting
        )
        labels = label_times(reported["timestamp"])
        assert (labels[0], labels[-1], len(labels)) == (first, last, points)


async def test_half_day_history_has_fewer_points() -> None:
    """The session of the day after Thanksgiving ends at 13:00."""
    scenario = ExchangeScenario(start=at("09:30", HALF_DAY))
    scenario.exchange.venue.advance(at("15:00", HALF_DAY))
    async with serve_exchange(scenario=scenario) as served:
        reported = await get_history(served, period="1D", timeframe="15Min")
        assert (len(reported["timestamp"]), reported["timestamp"][-1]) == (
            15,
            int(at("13:00", HALF_DAY).timestamp()),
        )


async def test_weekend_history_is_empty(scenario: ExchangeScenario) -> None:
    """A period without a session gives empty lists and no base, as Alpaca answered."""
    async with serve_exchange(scenario=scenario) as served:
        reported = await get_history(served, period="1D", timeframe="1D", date_end="2026-03-08")
        assert (reported["timestamp"], reported["equity"], reported["base_value"]) == ([], [], 0)


async def test_history_period_ends_at_the_requested_date(scenario: ExchangeScenario) -> None:
    """A day and a week include their last day; `date_end` is the older name of `end`; a start may replace it."""
    async with serve_exchange(scenario=scenario) as served:
        for query, days in (
            ({"period": "1D", "date_end": "2026-03-10"}, [TUESDAY]),
            ({"period": "2D", "end": "2026-03-10T12:00:00-04:00"}, [MONDAY, TUESDAY]),
            ({"period": "1W", "date_end": "2026-03-11"}, [MONDAY, TUESDAY, WEDNESDAY]),
            ({"period": "1A"}, [MONDAY, TUESDAY, WEDNESDAY]),
            ({"start": "2026-03-10", "period": "1D"}, [TUESDAY]),
            ({"start": "2026-03-10"}, [TUESDAY, WEDNESDAY]),
        ):
            reported = await get_history(served, timeframe="1D", **query)
            assert reported["timestamp"] == [int(at("20:00", day).timestamp()) for day in days], query


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
async def test_invalid_history_parameters_are_rejected(
    scenario: ExchangeScenario, query: dict[str, str]
) -> None:
    """An invalid parameter gets 422 with code 40010001."""
    async with serve_exchange(scenario=scenario) as served:
        response = await served.request("GET", PATH, params=query)
        assert (response.status_code, response.json()["code"]) == (422, 40010001)


async def test_portfolio_history_survives_a_restart(tmp_path: Path, scenario: ExchangeScenario) -> None:
    """A restored exchange gives equal responses, for days and minutes."""
    Journal(tmp_path).save(scenario.exchange)
    restored = ExchangeScenario(start=at("15:00"))
    restored.feed = scenario.feed
    restored.exchange.state.market = scenario.feed
    Journal(tmp_path).restore(restored.exchange)
    assert audit(restored.exchange.state).clean
    queries: list[dict[str, str]] = [
        {"period": "1M", "cashflow_types": "CSD,FEE"},
        {"period": "3D", "timeframe": "5Min"},
    ]
    async with (
        serve_exchange(scenario=scenario) as served,
        serve_exchange(scenario=restored) as served_restored,
    ):
        for query in queries:
            assert await get_history(served, **query) == await get_history(served_restored, **query)


async def test_transfers_are_activities_filtered_by_type_and_day(scenario: ExchangeScenario) -> None:
    """The initial cash, a deposit and a withdrawal are three rows, filtered by type, day and category."""
    scenario.exchange.deposit(scenario.exchange.state.account.cash * 0 - 200)
    async with serve_exchange(scenario=scenario) as served:

        async def rows(path: str = "", **query: str) -> list[tuple[str, str, str]]:
            response = await served.request("GET", f"/v2/account/activities{path}", params=query)
            assert response.status_code == 200, response.text
            return [(r["activity_type"], r.get("date", ""), r.get("net_amount", "")) for r in response.json()]

        initial_deposit, later_deposit, withdrawal = (
            ("CSD", "2026-03-09", "100000"),
            ("CSD", "2026-03-10", "500"),
            ("CSW", "2026-03-11", "-200"),
        )
        assert await rows("/CSD") == [later_deposit, initial_deposit]
        assert await rows("/TRANS", direction="asc") == [initial_deposit, later_deposit, withdrawal]
        assert await rows(category="non_trade_activity") == [withdrawal, later_deposit, initial_deposit]
        assert await rows(activity_types="CSW,FEE") == [withdrawal]
        assert await rows("/CSD", date="2026-03-10") == [later_deposit]
        assert await rows("/TRANS", until="2026-03-10T12:00:00-04:00") == [initial_deposit]
        assert await rows("/TRANS", after="2026-03-10T12:00:00-04:00") == [withdrawal]
        assert [kind for kind, _, _ in await rows(category="trade_activity")] == ["FILL", "FILL"]
        assert await rows("/DIV") == []
        for path in (
            "/NOPE",
            "?category=odd",
            "?category=trade_activity&activity_types=FILL",
            "?date=2026-03-10&after=2026-03-09",
            "?page_size=101",
        ):
            assert (await served.request("GET", f"/v2/account/activities{path}")).status_code == 422, path


async def test_daily_fees_are_two_activities_rounded_up() -> None:
    """SEC and FINRA fees on the day's sales carry that day's date; cash falls by exactly these amounts."""
    scenario = ExchangeScenario(start=at("15:00"))
    scenario.exchange.state.settings.charge_fees = True
    scenario.given_position("AAPL", 30)
    for _ in range(2):
        scenario.submit("sell", 15)
        scenario.advance()
    scenario.advance_to("16:00")
    async with serve_exchange(scenario=scenario) as served:
        reported = (
            await served.request("GET", "/v2/account/activities/FEE", params={"direction": "asc"})
        ).json()
        assert {(row["activity_sub_type"], row["net_amount"], row["date"]) for row in reported} == {
            ("REG", "-0.07", "2026-03-09"),  # 2999.7 * 0.0000206 = 0.06179382
            ("TAF", "-0.01", "2026-03-09"),  # 30 * 0.000195 = 0.00585
        }
        assert (await served.call(served.client.get_account))["cash"] == "99999.32"
        assert (await served.request("GET", "/v2/account/activities/MISC")).json() == reported[::-1]
    scenario.assert_audit_clean()
