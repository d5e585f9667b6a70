"""Watchlists: created, read, changed and deleted by id and by name; stored across a restart."""

from pathlib import Path
from typing import Any

from catalyst.simulator.exchange.persistence import Journal
from tests.simulator.exchange_scenario import ExchangeScenario
from tests.simulator.served_exchange import ServedExchange, serve_exchange

BY_NAME = "/v2/watchlists:by_name"


async def request_json(
    served: ServedExchange, method: str, path: str, expected: int = 200, **more: Any
) -> Any:
    response = await served.request(method, path, **more)
    assert response.status_code == expected, response.text
    return response.json() if response.content else None


def symbols_of(watchlist: Any) -> list[str]:
    return [asset["symbol"] for asset in watchlist["assets"]]


async def test_watchlist_is_created_changed_and_deleted_by_id() -> None:
    """A watchlist keeps the symbols' order and can be extended, renamed, emptied and deleted."""
    async with serve_exchange() as served:
        created = await request_json(
            served, "POST", "/v2/watchlists", json={"name": "tech", "symbols": ["MSFT", "AAPL"]}
        )
        path = f"/v2/watchlists/{created['id']}"
        assert (created["name"], symbols_of(created)) == ("tech", ["MSFT", "AAPL"])
        assert created["account_id"] == served.scenario.exchange.state.account.id
        assert created["assets"][0]["class"] == "us_equity"
        await served.advance(5)
        extended = await request_json(served, "POST", path, json={"symbol": "tsla"})
        assert symbols_of(extended) == ["MSFT", "AAPL", "TSLA"]
        assert extended["created_at"] == created["created_at"] < extended["updated_at"]
        assert symbols_of(await request_json(served, "DELETE", f"{path}/AAPL")) == ["MSFT", "TSLA"]
        renamed = await request_json(served, "PUT", path, json={"name": "cars"})
        assert (renamed["name"], symbols_of(renamed)) == ("cars", ["MSFT", "TSLA"])
        refilled = await request_json(served, "PUT", path, json={"symbols": ["HARD"]})
        assert (refilled["name"], symbols_of(refilled)) == ("cars", ["HARD"])
        assert await request_json(served, "GET", path) == refilled
        listed = await request_json(served, "GET", "/v2/watchlists")
        assert listed == [{name: refilled[name] for name in refilled if name != "assets"}]
        assert await request_json(served, "DELETE", path, 204) is None
        assert await request_json(served, "GET", "/v2/watchlists") == []
        assert (await request_json(served, "GET", path, 404))["code"] == 40410000


async def test_watchlist_is_read_changed_and_deleted_by_name() -> None:
    """Each operation by name does the same as by id; an unknown name gets Alpaca's message."""
    async with serve_exchange() as served:
        created = await request_json(
            served, "POST", "/v2/watchlists", json={"name": "a b", "symbols": ["AAPL"]}
        )
        name = {"name": "a b"}
        assert await request_json(served, "GET", BY_NAME, params=name) == created
        assert symbols_of(
            await request_json(served, "POST", BY_NAME, params=name, json={"symbol": "MSFT"})
        ) == [
            "AAPL",
            "MSFT",
        ]
        assert symbols_of(await request_json(served, "DELETE", f"{BY_NAME}/AAPL", params=name)) == ["MSFT"]
        changed = await request_json(
            served, "PUT", BY_NAME, params=name, json={"name": "c", "symbols": ["TSLA", "AAPL"]}
        )
        assert (changed["id"], symbols_of(changed)) == (created["id"], ["TSLA", "AAPL"])
        not_found = await request_json(served, "DELETE", BY_NAME, 404, params=name)
        assert not_found == {"code": 40410000, "message": "watchlist not found: a b"}
        await request_json(served, "DELETE", BY_NAME, 204, params={"name": "c"})
        assert (await request_json(served, "GET", BY_NAME, 422))["message"] == "name is missing"


async def test_invalid_watchlist_requests_are_rejected_without_effect() -> None:
    """Names must be present, short and unique; symbols must exist and be unique."""
    async with serve_exchange() as served:
        watchlist = await request_json(
            served, "POST", "/v2/watchlists", json={"name": "one", "symbols": ["AAPL"]}
        )
        path = f"/v2/watchlists/{watchlist['id']}"
        await request_json(served, "POST", "/v2/watchlists", json={"name": "two"})
        for body, text in (
            ({}, "watchlist name is required"),
            ({"name": ""}, "watchlist name is required"),
            ({"name": "x" * 65}, "watchlist name must be no more than 64 characters"),
            ({"name": "one"}, "watchlist name must be unique"),
            ({"name": "three", "symbols": ["NOPE"]}, 'asset "NOPE" not found'),
            ({"name": "three", "symbols": ["AAPL", "aapl"]}, "duplicate symbol: AAPL"),
            ({"name": "three", "symbols": "AAPL"}, "symbols must be a list"),
            ({"name": "three", "symbols": [None]}, "symbol is required"),
        ):
            assert (await request_json(served, "POST", "/v2/watchlists", 422, json=body))["message"] == text
        assert (await request_json(served, "PUT", path, 422, json={"name": "two"}))["code"] == 40010001
        await request_json(served, "PUT", path, json={"name": "one"})  # its own name is no duplicate
        assert (await request_json(served, "POST", path, 422, json={"symbol": "AAPL"}))["code"] == 40010001
        await request_json(served, "POST", path, 422, json={})
        await request_json(served, "PUT", path, 422, json={"name": "four", "symbols": ["NOPE"]})
        await request_json(served, "DELETE", f"{path}/MSFT", 404)
        await request_json(served, "GET", "/v2/watchlists/no-uuid", 422)
        assert symbols_of(await request_json(served, "GET", path)) == ["AAPL"]
        assert [row["name"] for row in await request_json(served, "GET", "/v2/watchlists")] == ["one", "two"]


async def test_watchlists_survive_a_restart(tmp_path: Path) -> None:
    """Created, changed and deleted watchlists are unchanged after a restart."""
    async with serve_exchange(state=tmp_path) as served:
        for name in ("one", "two"):
            await request_json(served, "POST", "/v2/watchlists", json={"name": name, "symbols": ["AAPL"]})
        await request_json(served, "PUT", BY_NAME, params={"name": "two"}, json={"symbols": ["MSFT", "TSLA"]})
        await request_json(served, "DELETE", BY_NAME, 204, params={"name": "one"})
        stored = await request_json(served, "GET", BY_NAME, params={"name": "two"})
    restarted = ExchangeScenario()
    Journal(tmp_path).restore(restarted.exchange)
    async with serve_exchange(scenario=restarted) as served:
        assert await request_json(served, "GET", BY_NAME, params={"name": "two"}) == stored
        assert [row["name"] for row in await request_json(served, "GET", "/v2/watchlists")] == ["two"]
