"""The stop monitor: both sides, valid prices only, and never on one observation."""

from tests.stories.scenario import Desk, open_desk

SHORT = {"limit": "189.90", "stop": "192.00", "target": "186.00"}


def silent(desk: Desk, symbol: str) -> None:
    """The market shows no quote of this symbol any more."""
    assert isinstance(desk.market.quotes, dict)  # type: ignore[attr-defined]
    desk.market.quotes[symbol] = None  # type: ignore[attr-defined]


async def test_a_short_is_watched_too(database: str) -> None:
    """Sold short, and the buy stop does not act: bought back after two observations and the grace."""
    async with open_desk(database, trading={"allow_short": True}) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.enters("AAPL", 20, side="short", **SHORT)
        await desk.waits(seconds=5)
        assert desk.held("AAPL") == -20
        await desk.faults("no_trigger", symbol="AAPL", count=0)
        desk.prints("AAPL", "192.40")
        await desk.waits(seconds=45)
        assert desk.held("AAPL") == 0
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        await desk.agrees()


async def test_one_print_is_no_proof(database: str) -> None:
    """A single trade below the stop, no quote beside it, and the broker's stop at rest: kept, however often the same
    print is read. A second trade there, and it is sold."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("no_trigger", symbol="AAPL", count=0)
        silent(desk, "AAPL")
        desk.prints("AAPL", "187.50")
        await desk.waits(seconds=90)
        assert desk.held("AAPL") == 20
        desk.prints("AAPL", "187.40")
        await desk.waits(seconds=10)
        assert await desk.submits("AAPL") == 2


async def test_without_a_market_the_brokers_price_is_one(database: str) -> None:
    """Nothing rests at the broker (every protection is refused as a wash trade, say) and the market data is down: the
    broker's own price of the position is watched, and the stop enforced."""
    async with open_desk(database, execution={"partial_entry_grace_seconds": 60}) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        await desk.enters("AAPL", 20, limit="190.10", stop="188.00", target="194.00")
        await desk.waits(seconds=3)
        assert desk.held("AAPL") == 8
        await desk.faults("status_before", method="GET", route="/v2/stocks/*", status=503, count=0)
        desk.prints("AAPL", "187.50")
        await desk.waits(seconds=20)
        assert desk.held("AAPL") == 0
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        await desk.agrees()


async def deafened(desk: Desk) -> None:
    """No price can be read, of the market or of the broker."""
    for route in ("/v2/stocks/*", "/v2/positions"):
        await desk.faults("status_before", method="GET", route=route, status=503, count=0)


def hears_again(desk: Desk) -> None:
    faults = desk.server.exchange.faults
    for key in [key for key, fault in faults.faults.items() if fault.kind == "status_before"]:
        faults.remove(key)


async def test_a_price_heard_once_is_one_observation_however_often_it_is_looked_at(database: str) -> None:
    """Nothing rests at the broker, a price through the stop was heard, and then nothing more: the looks at it that
    follow each second are no second observation. The next price is."""
    async with open_desk(database, execution={"partial_entry_grace_seconds": 60}) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        await desk.enters("AAPL", 20, limit="190.10", stop="188.00", target="194.00")
        await desk.waits(seconds=3)
        assert desk.parts is not None
        monitor = desk.parts.stop_monitor
        await deafened(desk)
        desk.prints("AAPL", "187.50")
        await desk.waits(seconds=1)
        hears_again(desk)
        await monitor.ask()
        assert monitor.prices.spans["AAPL"][0] < 188
        await deafened(desk)
        await desk.waits(seconds=20)
        assert desk.held("AAPL") == 8
        hears_again(desk)
        await desk.waits(seconds=5)
        assert desk.held("AAPL") == 0
        await desk.agrees()
