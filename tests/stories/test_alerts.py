"""Alerts: each symbol, position and crossing has its own; a repeat is counted and not raised again."""

import ast
from collections.abc import Iterator
from pathlib import Path

import catalyst
from tests.stories.scenario import Facts, Scenario, open_scenario


async def alerts_of(scenario: Scenario, event: str) -> list[Facts]:
    """Return severity, symbol and number of repeats of each alert of an event, oldest first."""
    rows = await scenario.conn.fetch(
        "SELECT severity, coalesce(facts->>'symbol', facts->'symbols'->>0) AS symbol, repeats FROM alerts"
        " WHERE event = $1 ORDER BY severity DESC, alert_id",
        event,
    )
    return [dict(row) for row in rows]


def repeats_of(alerts: list[Facts], symbol: str) -> int:
    """Return the repeats of a symbol's only alert."""
    [alert] = [alert for alert in alerts if alert["symbol"] == symbol]
    return int(alert["repeats"])


async def test_each_symbol_without_a_price_raises_its_own_alert(database: str) -> None:
    """Two symbols lose their prices at once: a warning for the protected one, a critical alert for the one without a
    stop. A price ends the time of its symbol alone; the next time without a price counts from its own start."""
    async with open_scenario(
        database, stop_monitor={"every_seconds": 40, "stale_after_seconds": 60}
    ) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.given_position("MSFT", 20)
        assert scenario.components is not None
        prices = scenario.components.stop_monitor.prices
        held = scenario.components.ledger.last_known.positions
        while not prices._stale_since:
            await scenario.advance(seconds=1)
        await scenario.advance(seconds=61)  # before the monitor's own check
        await prices.alert_stale_prices(held, {held[1].position_id})
        alerts = await alerts_of(scenario, "PRICES_STALE")
        assert [(alert["symbol"], alert["severity"]) for alert in alerts] == [
            ("AAPL", "WARNING"),
            ("MSFT", "CRITICAL"),
        ]

        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=80)  # two checks with a price
        priced = await alerts_of(scenario, "PRICES_STALE")
        await scenario.advance(seconds=80)  # two checks without one, 40 s apart
        later = await alerts_of(scenario, "PRICES_STALE")
        assert repeats_of(later, "MSFT") == repeats_of(priced, "MSFT")
        assert repeats_of(later, "AAPL") > repeats_of(priced, "AAPL")
        await scenario.advance(seconds=40)
        assert repeats_of(await alerts_of(scenario, "PRICES_STALE"), "MSFT") > repeats_of(priced, "MSFT")


async def test_symbols_without_prices_share_one_alert(database: str) -> None:
    """Two symbols that lose their prices at once raise one alert that names them; a third one later raises the
    second, and the first alert is repeated, not raised again."""
    async with open_scenario(
        database, stop_monitor={"every_seconds": 40, "stale_after_seconds": 60}
    ) as scenario:
        for symbol in ("AAPL", "MSFT", "TSLA"):
            await scenario.given_position(symbol, 20)
        for _ in range(20):
            scenario.print_trade("TSLA", "190.00")
            await scenario.advance(seconds=10)
        await scenario.advance(seconds=200)
        found = await scenario.conn.fetch(
            "SELECT facts->'symbols' AS symbols, message, repeats FROM alerts WHERE event = 'PRICES_STALE'"
            " ORDER BY alert_id"
        )
        assert [row["symbols"] for row in found] == ['["AAPL", "MSFT"]', '["TSLA"]']
        assert found[0]["message"].startswith("AAPL, MSFT: no valid price since ")
        assert found[0]["repeats"] > 0


async def test_slow_exits_of_one_moment_share_one_alert(database: str) -> None:
    """Two exits that a halt delays raise one alert that names both; a third one later raises its own."""
    async with open_scenario(database) as scenario:
        for symbols in (("AAPL", "MSFT"), ("TSLA",)):
            for symbol in symbols:
                await scenario.given_position(symbol, 20)
            for symbol in symbols:
                await scenario.admin("halt", {"symbol": symbol})
                assert (await scenario.send_command("close", symbol=symbol))["ok"]
            await scenario.advance(seconds=60)
        found = await scenario.conn.fetch(
            "SELECT facts->'symbols' AS symbols, message FROM alerts WHERE event = 'EXIT_SLOW' ORDER BY alert_id"
        )
        assert [row["symbols"] for row in found] == ['["AAPL", "MSFT"]', '["TSLA"]']
        assert found[0]["message"].startswith("AAPL, MSFT: the exit is not complete after 30 s")


def raised_alerts() -> Iterator[tuple[str, ast.Call]]:
    """Yield the place and the call of each alert that the product raises."""
    package = Path(catalyst.__file__).parent
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "alerts.raise_alert":
                yield f"{path.relative_to(package)}:{node.lineno}", node


def test_alert_about_one_of_several_names_it_in_its_subject() -> None:
    """An alert about a symbol, a position or an order has a subject, which tells two of them apart."""
    calls = dict(raised_alerts())
    assert len(calls) >= 15
    about_one = ("symbol", "position_id", "order_id", "orphan_id")
    without_subject = [
        place
        for place, call in calls.items()
        if not any(keyword.arg == "subject" for keyword in call.keywords)
        and any(f"'{name}'" in ast.unparse(call) or f".{name}" in ast.unparse(call) for name in about_one)
    ]
    assert without_subject == []
