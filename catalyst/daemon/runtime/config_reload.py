"""config.yaml read again while the day runs: at SIGHUP, and within a minute of a change.

Valid: every part holds the new values from one instant on, and the difference is in the log and in the tables.
Invalid, or gone: the old ones stay, and somebody is told. Some keys take effect at a start only, and say so.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final

import structlog
from pydantic import BaseModel, ValidationError

from catalyst.clock import Clock, wait
from catalyst.config.loader import FileSignature, file_signature, load
from catalyst.config.schema import Config
from catalyst.config.settings import Settings
from catalyst.domain.errors import ConfigInvalid
from catalyst.store import alerts, risk_events
from catalyst.store.pool import Store, is_outage

log = structlog.get_logger()

CHECK_INTERVAL: Final = timedelta(seconds=60)
CHANGED_EVENT: Final = "CONFIG_CHANGED"

# Sections and keys that only a start reads: who trades what, where, and under which hours.
START_ONLY_KEYS: Final = (
    "trading", "broker", "database", "log", "pipeline", "session.mode", "session.timezone", "session.market_open",
    "session.market_close", "session.flat_before_close_minutes", "session.no_entries_before_close_minutes",
    "workflow.auto_execute", "features.autonomous_trading", "features.email_alerts", "shutdown.on_sigterm",
)  # fmt: skip
# Taken over at once, and used from the next session on: the day's plan was made of the old ones.
NEXT_SESSION_KEYS: Final = ("universe", "workflow.scan_frequency_minutes")
# What RISK_HOT_RELOAD=false keeps; TRADING_HOT_RELOAD=false keeps everything else.
RISK_SECTIONS: Final = ("risk", "daily_limits", "sector_limits", "correlation", "positions", "emergency")

ValueChange = tuple[object, object]


@dataclass
class ConfigReload:
    """Watches the file that `settings` came from. `adopt` hands a new tree to every part, in one step."""

    settings: Settings
    store: Store
    clock: Clock
    apply_config: Callable[[Config], None]
    requested: asyncio.Event = field(default_factory=asyncio.Event)  # SIGHUP
    _last_signature: FileSignature | None = None
    _unrecorded_changes: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._last_signature = file_signature(self.settings.source)

    async def run(self) -> None:
        """Look at the file every minute, and whenever somebody asks."""
        while True:
            asked = await wait(self.clock, self.requested, CHECK_INTERVAL)
            self.requested.clear()
            seen = file_signature(self.settings.source)
            if asked or seen != self._last_signature:
                self._last_signature = seen
                await self.reload()
            await self._record_changes()

    async def reload(self) -> None:
        """The file's values are in force, as far as they may be; or the old ones are, and somebody knows why."""
        old = self.settings
        if old.source is None:
            log.warning("reload_without_file", advice="start with --config to have a file that can be reread")
            return
        refused = None
        try:
            found = load(old.source, env_file=old.env_file)
            new = _reloadable_config(old, found.config)
        except ConfigInvalid as error:
            refused = str(error)
        if refused is not None:
            log.error("config_invalid", error=refused, in_force=old.config.fingerprint)
            await self._alert_invalid(refused)
            return
        wanted = changed_values(old.config, found.config)
        taken = changed_values(old.config, new)
        waiting = sorted(wanted.keys() - taken.keys())
        self.settings = replace(old, config=new)
        self.apply_config(new)  # nothing is awaited in it: no part ever sees the half of it
        log.info(
            "config_reloaded",
            changes={key: f"{before} -> {after}" for key, (before, after) in sorted(taken.items())},
            next_session=sorted(key for key in taken if _is_under(key, NEXT_SESSION_KEYS)),
            needs_restart=waiting,
            fingerprint=new.fingerprint,
        )
        if wanted:
            changes = {key: [str(before), str(after)] for key, (before, after) in taken.items()}
            self._unrecorded_changes.append(
                {"changes": changes, "needs_restart": waiting, "fingerprint": new.fingerprint}
            )

    async def _record_changes(self) -> None:
        """Tell the tables of each change; while they are away it is kept."""
        while self._unrecorded_changes:
            facts = self._unrecorded_changes[0]
            try:
                async with self.store.tx("config_changed") as conn:
                    await risk_events.put(
                        conn,
                        event_type=CHANGED_EVENT,
                        severity="INFO",
                        message=f"{len(facts['changes'])} values changed, {len(facts['needs_restart'])} need a restart",
                        facts=facts,
                        at=self.clock.now(),
                    )
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("config_change_not_recorded", error=str(error))
                return
            self._unrecorded_changes.pop(0)

    async def _alert_invalid(self, error_text: str) -> None:
        key = hashlib.sha256(error_text.encode()).hexdigest()[:16]
        try:
            async with self.store.tx("config_invalid") as conn:
                await alerts.put(
                    conn,
                    severity="WARNING",
                    event="CONFIG_INVALID",
                    message=f"the configuration was not taken over, the old one stays in force: {error_text}",
                    facts={"in_force": self.settings.config.fingerprint},
                    dedupe_key=f"CONFIG_INVALID:{key}",
                    at=self.clock.now(),
                )
        except Exception as error:
            if not is_outage(error):
                raise
            log.warning("alert_not_written", error=str(error))


def changed_values(old: Config, new: Config) -> dict[str, ValueChange]:
    """Every key whose value differs, in the file's words, with both values."""
    before, after = dict(_flatten_keys(old.model_dump())), dict(_flatten_keys(new.model_dump()))
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def replace_config_references(old: Config, new: Config, roots: Iterable[object]) -> int:
    """Whoever was handed `old` or a section of it, anywhere below `roots`, holds what stands there in `new`; how many.

    Found by identity, so that a part that is added later is not forgotten.
    """
    successors = {id(old): new} | {
        id(getattr(old, name)): getattr(new, name)
        for name in Config.model_fields
        if isinstance(getattr(old, name), BaseModel)
    }
    seen: set[int] = set()
    waiting, count = list(roots), 0
    while waiting:
        part = waiting.pop()
        if id(part) in seen or not type(part).__module__.startswith("catalyst.daemon."):
            continue
        seen.add(id(part))
        for name, value in list(vars(part).items()) if hasattr(part, "__dict__") else ():
            if id(value) in successors:
                setattr(part, name, successors[id(value)])
                count += 1
            else:
                waiting.append(value)
    return count


def _reloadable_config(settings: Settings, found: Config) -> Config:
    """`found`, with the old values where a start is needed or the environment forbids the change."""
    kept = list(START_ONLY_KEYS)
    if not settings.env.risk_hot_reload:
        kept += RISK_SECTIONS
    if not settings.env.trading_hot_reload:
        kept += [name for name in Config.model_fields if name not in RISK_SECTIONS]
    tree, old = found.model_dump(), settings.config.model_dump()
    for key in kept:
        section, _, name = key.partition(".")
        if name:
            tree[section][name] = old[section][name]
        else:
            tree[section] = old[section]
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        said = "; ".join(fault["msg"] for fault in error.errors(include_url=False, include_input=False))
        raise ConfigInvalid(f"together with what needs a restart: {said}") from None


def _is_under(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _flatten_keys(tree: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten_keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
