"""Watchlists: made, read, changed and deleted, by id and by name; kept over a restart."""

from pathlib import Path
from typing import Any

from catalyst.simulator.exchange.persistence import Journal
from tests.simulator.exchange_scenario import Desk
from tests.simulator.served_exchange import Wire, wired

BY_NAME = "/v2/watchlists:by_name"


async def asked(wire: Wire, method: str, path: str, expected: int = 200, **more: Any) -> Any:
    response = await wire.http_(method, path, **more)
    assert response.status_code == expected, response.text
    return response.json() if response.content else None


def symbols(watchlist: Any) -> list[str]:
    return [asset["symbol"] for asset in watchlist["assets"]]


async def test_a_watchlist_lives_its_life_by_id() -> None:
    """Made with symbols in the customer's order, appended to, renamed, emptied one by one, deleted."""
    async with wired() as wire:
        made = await asked(wire, "POST", "/v2/watchlists", json={"name": "tech", "symbols": ["MSFT", "AAPL"]})
        path = f"/v2/watchlists/{made['id']}"
        assert (made["name"], symbols(made)) == ("tech", ["MSFT", "AAPL"])
        assert made["account_id"] == wire.desk.exchange.account.id
        assert made["assets"][0]["class"] == "us_equity"
        await wire.passes(5)
        grown = await asked(wire, "POST", path, json={"symbol": "tsla"})
        assert symbols(grown) == ["MSFT", "AAPL", "TSLA"]
        assert grown["created_at"] == made["created_at"] < grown["updated_at"]
        assert symbols(await asked(wire, "DELETE", f"{path}/AAPL")) == ["MSFT", "TSLA"]
        renamed = await asked(wire, "PUT", path, json={"name": "cars"})
        assert (renamed["name"], symbols(renamed)) == ("cars", ["MSFT", "TSLA"])
        refilled = await asked(wire, "PUT", path, json={"symbols": ["HARD"]})
        assert (refilled["name"], symbols(refilled)) == ("cars", ["HARD"])
        assert await asked(wire, "GET", path) == refilled
        listed = await asked(wire, "GET", "/v2/watchlists")
        assert listed == [{name: refilled[name] for name in refilled if name != "assets"}]
        assert await asked(wire, "DELETE", path, 204) is None
        assert await asked(wire, "GET", "/v2/watchlists") == []
        assert (await asked(wire, "GET", path, 404))["code"] == 40410000


async def test_a_watchlist_is_also_known_by_its_name() -> None:
    """Every act by name does what it does by id; an unknown name is not found in the real one's words."""
    async with wired() as wire:
        made = await asked(wire, "POST", "/v2/watchlists", json={"name": "a b", "symbols": ["AAPL"]})
        name = {"name": "a b"}
        assert await asked(wire, "GET", BY_NAME, params=name) == made
        assert symbols(await asked(wire, "POST", BY_NAME, params=name, json={"symbol": "MSFT"})) == [
            "AAPL",
            "MSFT",
        ]
        assert symbols(await asked(wire, "DELETE", f"{BY_NAME}/AAPL", params=name)) == ["MSFT"]
        changed = await asked(
            wire, "PUT", BY_NAME, params=name, json={"name": "c", "symbols": ["TSLA", "AAPL"]}
        )
        assert (changed["id"], symbols(changed)) == (made["id"], ["TSLA", "AAPL"])
        gone = await asked(wire, "DELETE", BY_NAME, 404, params=name)
        assert gone == {"code": 40410000, "message": "watchlist not found: a b"}
        await asked(wire, "DELETE", BY_NAME, 204, params={"name": "c"})
        assert (await asked(wire, "GET", BY_NAME, 422))["message"] == "name is missing"


async def test_senseless_watchlists_are_refused_and_change_nothing() -> None:
    """Names must be there, short and unique; symbols must exist, once each."""
    async with wired() as wire:
        one = await asked(wire, "POST", "/v2/watchlists", json={"name": "one", "symbols": ["AAPL"]})
        path = f"/v2/watchlists/{one['id']}"
        await asked(wire, "POST", "/v2/watchlists", json={"name": "two"})
        for body, words in (
            ({}, "watchlist name is required"),
            ({"name": ""}, "watchlist name is required"),
            ({"name": "x" * 65}, "watchlist name must be no more than 64 characters"),
            ({"name": "one"}, "watchlist name must be unique"),
            ({"name": "three", "symbols": ["NOPE"]}, 'asset "NOPE" not found'),
            ({"name": "three", "symbols": ["AAPL", "aapl"]}, "duplicate symbol: AAPL"),
            ({"name": "three", "symbols": "AAPL"}, "symbols must be a list"),
            ({"name": "three", "symbols": [None]}, "symbol is required"),
        ):
            assert (await asked(wire, "POST", "/v2/watchlists", 422, json=body))["message"] == words
        assert (await asked(wire, "PUT", path, 422, json={"name": "two"}))["code"] == 40010001
        await asked(wire, "PUT", path, json={"name": "one"})  # its own name is not taken
        assert (await asked(wire, "POST", path, 422, json={"symbol": "AAPL"}))["code"] == 40010001
        await asked(wire, "POST", path, 422, json={})
        await asked(wire, "PUT", path, 422, json={"name": "four", "symbols": ["NOPE"]})
        await asked(wire, "DELETE", f"{path}/MSFT", 404)
        await asked(wire, "GET", "/v2/watchlists/no-uuid", 422)
        assert symbols(await asked(wire, "GET", path)) == ["AAPL"]
        assert [row["name"] for row in await asked(wire, "GET", "/v2/watchlists")] == ["one", "two"]


async def test_watchlists_survive_a_restart(tmp_path: Path) -> None:
    """What was made, changed and deleted before it."""
    async with wired(state=tmp_path) as wire:
        for name in ("one", "two"):
            await asked(wire, "POST", "/v2/watchlists", json={"name": name, "symbols": ["AAPL"]})
        await asked(wire, "PUT", BY_NAME, params={"name": "two"}, json={"symbols": ["MSFT", "TSLA"]})
        await asked(wire, "DELETE", BY_NAME, 204, params={"name": "one"})
        kept = await asked(wire, "GET", BY_NAME, params={"name": "two"})
    again = Desk()
    Journal(tmp_path).restore(again.exchange)
    async with wired(desk=again) as wire:
        assert await asked(wire, "GET", BY_NAME, params={"name": "two"}) == kept
        assert [row["name"] for row in await asked(wire, "GET", "/v2/watchlists")] == ["two"]
