"""Components of the daemon: each is complete when it is built, and nothing is put into it later."""

import ast
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.market_data import AlpacaMarketData
from catalyst.broker.news import AlpacaNews
from catalyst.broker.trade_updates import AlpacaTradeUpdates
from catalyst.clock import ManualClock
from catalyst.config.current import CurrentConfig
from catalyst.config.schema import Config, Mode, Section, SessionMode
from catalyst.config.settings import Environment, Settings
from catalyst.daemon.components import Components, build_components
from catalyst.daemon.outage.spool import Spool
from catalyst.daemon.trading_state.account_lease import AccountLease, acquire_lease
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.flat_proof_files import FlatProofFiles
from catalyst.store.pool import open_store
from tests.changed_config import changed_config

DAEMON = Path(__file__).parents[2] / "catalyst" / "daemon"
COMPOSITION = ("app.py", "components.py", "shutdown.py", "startup.py")


def assignments_from_outside(tree: ast.AST, *, composition: bool) -> Iterator[str]:
    """Yield each assignment to an attribute of an object that `self` holds; in composition modules to an
    attribute of any object but `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            owner = node.value
            if not isinstance(owner, ast.Name) or (composition and owner.id != "self"):
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
            yield f"line {node.lineno}: {ast.unparse(node)}"


def test_daemon_objects_assign_only_their_own_attributes() -> None:
    """No module of the daemon assigns an attribute of a component from outside."""
    found = [
        f"{path.name} {line}"
        for path in sorted(DAEMON.rglob("*.py"))
        for line in assignments_from_outside(
            ast.parse(path.read_text()), composition=path.parent == DAEMON and path.name in COMPOSITION
        )
    ]
    assert found == []


@pytest.mark.parametrize(
    "planted",
    [
        "reconciler.spool_import = SpoolImport()",
        "components.daily_loss_limit.emergency_stop: object = stop",
        "setattr(component, name, value)",
    ],
)
def test_assignment_check_finds_planted_assignments(planted: str) -> None:
    """The check finds late assignments in composition modules."""
    assert len(list(assignments_from_outside(ast.parse(planted), composition=True))) == 1
    inside = ast.parse("self.store.on_error = self.on_error; backoff.pause = 1; self.count = 2")
    assert len(list(assignments_from_outside(inside, composition=False))) == 1


@pytest.fixture
async def build(
    database: str, clock: ManualClock, tmp_path: Path
) -> AsyncIterator[Callable[[Config], Components]]:
    """Return a function that builds the components from a configuration, on one store and one account lock."""
    gate = EntryGate(clock)
    store = await open_store(database, clock)
    lock = await acquire_lease(database, "account", clock)
    keys = {"key": "k", "secret": "s"}
    broker = AlpacaBroker(clock, base_url="http://127.0.0.1:1", **keys)
    market = AlpacaMarketData(clock, base_url="http://127.0.0.1:1", **keys)
    news = AlpacaNews(clock, base_url="http://127.0.0.1:1", **keys)
    stream = AlpacaTradeUpdates(clock, url="ws://127.0.0.1:1", **keys)

    def build(config: Config) -> Components:
        settings = Settings(config, Environment(), Mode.SIM, SessionMode.SUPERVISED)
        spool, proofs = Spool(tmp_path, "account"), FlatProofFiles(tmp_path, "account")
        lease = AccountLease(database, gate, clock, "account", 1, lock)
        return build_components(
            settings, store, clock, gate, broker, market, news, stream, 1, "0a1b2c", spool, proofs, lease
        )

    yield build
    for client in (broker, market, news):
        await client.close()
    await lock.release()
    await store.close()


def stored_values(components: Components) -> dict[str, object]:
    """Return the path and the value of every field of every daemon object, but those that hold the configuration."""
    values: dict[str, object] = {}
    visited: set[int] = set()
    to_visit: list[tuple[str, object]] = [("components", components)]
    while to_visit:
        path, owner = to_visit.pop()
        for name, value in vars(owner).items():
            values[f"{path}.{name}"] = value
            is_part = type(value).__module__.startswith("catalyst.daemon.") and hasattr(value, "__dict__")
            if is_part and id(value) not in visited:
                visited.add(id(value))
                to_visit.append((f"{path}.{name}", value))
    return values


async def test_components_store_no_value_of_the_configuration(build: Callable[[Config], Components]) -> None:
    """No field of a component is a section or depends on a value of one, so a reload needs to reach none: built
    from two configurations without a common value, all plain fields are equal."""
    first, second = (stored_values(build(config)) for config in (Config(), changed_config(Config())))
    assert first.keys() == second.keys()
    assert [path for path, value in first.items() if isinstance(value, Section)] == []
    plain = (bool, int, float, str, Decimal, timedelta, tuple, list, dict, set, frozenset, type(None))
    differing = [path for path, value in first.items() if isinstance(value, plain) and value != second[path]]
    assert differing == []
    holders = {path for path, value in first.items() if isinstance(value, (CurrentConfig, Settings))}
    assert {"components.settings", "components.config", "components.stop_monitor.prices.config"} <= holders
