"""Config reload: reads config.yaml again at SIGHUP, and within a minute after the file has changed.

A valid file takes effect in all components at one instant; the changed values go to the log and the database.
When the file is invalid or missing, the old values stay in force and an alert is raised. Some keys take effect only
at a start; the log names them.
"""

import asyncio
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import structlog
from pydantic import ValidationError

from catalyst.clock import Clock, wait
from catalyst.config.current import CurrentConfig
from catalyst.config.loader import FileSignature, file_signature, load
from catalyst.config.schema import Config
from catalyst.config.settings import Environment, Settings
from catalyst.domain.errors import ConfigInvalid, DatabaseUnavailable
from catalyst.store import alerts, risk_events
from catalyst.store.pool import Store

log = structlog.get_logger()

CHECK_INTERVAL: Final = timedelta(seconds=60)
CHANGED_EVENT: Final = "CONFIG_CHANGED"

# Sections and keys that take effect only at a start: account, broker, database, log, ports, pipeline, trading hours.
START_ONLY_KEYS: Final = (
    "trading", "broker", "database", "log", "monitoring", "pipeline", "session.mode", "session.timezone",
    "session.market_open", "session.market_close", "session.flat_before_close_minutes",
    "session.no_entries_before_close_minutes", "workflow.auto_execute", "features.autonomous_trading",
    "features.email_alerts", "shutdown.on_sigterm", "shutdown.on_sigint",
)  # fmt: skip
# Stored at once, used from the next session on: today's schedule and universe were built from the old values.
NEXT_SESSION_KEYS: Final = ("universe", "workflow.scan_frequency_minutes")
# Sections that RISK_HOT_RELOAD=false protects from a reload; TRADING_HOT_RELOAD=false protects all other sections.
RISK_SECTIONS: Final = ("risk", "daily_limits", "sector_limits", "correlation", "positions", "emergency")

ValueChange = tuple[object, object]


@dataclass
class ConfigReload:
    """Watches the file of `settings` and puts its values in force in `config`."""

    settings: Settings
    config: CurrentConfig
    store: Store
    clock: Clock
    requested: asyncio.Event = field(default_factory=asyncio.Event)  # SIGHUP
    _last_signature: FileSignature | None = None
    _unrecorded_changes: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._last_signature = file_signature(self.settings.source)

    async def run(self) -> None:
        """Check the file every minute, and reload at once when `requested` is set."""
        while True:
            requested = await wait(self.clock, self.requested, CHECK_INTERVAL)
            self.requested.clear()
            signature = file_signature(self.settings.source)
            if requested or signature != self._last_signature:
                self._last_signature = signature
                await self.reload()
            await self._record_changes()

    async def reload(self) -> None:
        """Apply the file's reloadable values; when the file is invalid, alert and keep the old values."""
        settings, old = self.settings, self.config.in_force
        if settings.source is None:
            log.warning(
                "reload_without_file", advice="start with --config FILE, so that the file can be reloaded"
            )
            return
        error_text = None
        try:
            loaded = load(settings.source, env_file=settings.env_file).config
            new = _reloadable_config(old, loaded, settings.env)
        except ConfigInvalid as error:
            error_text = str(error)
        if error_text is not None:
            log.error("config_invalid", error=error_text, in_force=old.fingerprint)
            await self._alert_invalid(error_text)
            return
        file_changes = changed_values(old, loaded)
        applied_changes = changed_values(old, new)
        needs_restart = sorted(file_changes.keys() - applied_changes.keys())
        self.config.put_in_force(new)
        log.info(
            "config_reloaded",
            changes={key: f"{before} -> {after}" for key, (before, after) in sorted(applied_changes.items())},
            next_session=sorted(key for key in applied_changes if _is_under(key, NEXT_SESSION_KEYS)),
            needs_restart=needs_restart,
            fingerprint=new.fingerprint,
        )
        if file_changes:
            changes = {key: [str(before), str(after)] for key, (before, after) in applied_changes.items()}
            self._unrecorded_changes.append(
                {"changes": changes, "needs_restart": needs_restart, "fingerprint": new.fingerprint}
            )

    async def _record_changes(self) -> None:
        """Write each change to the database; keep it for the next call during a database outage."""
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
            except DatabaseUnavailable as error:
                log.warning("config_change_not_recorded", error=str(error))
                return
            self._unrecorded_changes.pop(0)

    async def _alert_invalid(self, error_text: str) -> None:
        key = hashlib.sha256(error_text.encode()).hexdigest()[:16]
        try:
            async with self.store.tx("config_invalid") as conn:
                await alerts.raise_alert(
                    conn,
                    "CONFIG_INVALID",
                    f"the config file is invalid, the old values stay in force; correct it: {error_text}",
                    severity=alerts.WARNING,
                    subject=key,
                    facts={"in_force": self.config.in_force.fingerprint},
                    at=self.clock.now(),
                )
        except DatabaseUnavailable as error:
            log.warning("alert_not_written", error=str(error))


def changed_values(old: Config, new: Config) -> dict[str, ValueChange]:
    """Return {dotted key as in the file: (old value, new value)} for every value that differs."""
    before, after = dict(_flatten_keys(old.model_dump())), dict(_flatten_keys(new.model_dump()))
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def _reloadable_config(old: Config, loaded: Config, env: Environment) -> Config:
    """Return `loaded` with the old values of all keys that need a restart or that the environment protects.

    Raises ConfigInvalid when the mixture of old and new values is invalid.
    """
    protected_keys = list(START_ONLY_KEYS)
    if not env.risk_hot_reload:
        protected_keys += RISK_SECTIONS
    if not env.trading_hot_reload:
        protected_keys += [name for name in Config.model_fields if name not in RISK_SECTIONS]
    tree, old_tree = loaded.model_dump(), old.model_dump()
    for key in protected_keys:
        section, _, name = key.partition(".")
        if name:
            tree[section][name] = old_tree[section][name]
        else:
            tree[section] = old_tree[section]
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        faults = "; ".join(fault["msg"] for fault in error.errors(include_url=False, include_input=False))
        raise ConfigInvalid(
            f"these values do not fit those that only a restart changes: {faults}; restart to apply all"
        ) from None


def _is_under(key: str, names: Iterable[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _flatten_keys(tree: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten_keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
