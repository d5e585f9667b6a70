"""Keys of the earlier Catalyst's two files, trading_config.yaml and risk_parameters.yaml, and their names now."""

from collections.abc import Mapping
from typing import Final

RENAMED: Final = {
    "daily_limits.max_loss": "risk.max_daily_loss",
    "daily_limits.warning_threshold_pct": "risk.warning_threshold_pct",
    "position_limits.max_positions": "risk.max_positions",
    "position_limits.max_position_size": "risk.max_position_size",
    "position_limits.min_position_size": "risk.min_position_size",
    "sector_limits.max_exposure_pct": "risk.max_sector_exposure_pct",
    "correlation.max_correlation": "risk.max_correlation",
    "emergency_actions.close_all_positions_on_limit": "emergency.close_all_positions_on_limit",
    "emergency_actions.send_email_alert": "emergency.send_email_alert",
    "emergency_actions.halt_new_trades": "emergency.halt_new_trades",
    "emergency_actions.cooldown_period_minutes": "emergency.cooldown_period_minutes",
}
_SECTIONS: Final = {"position_limits": "risk", "emergency_actions": "emergency"}


def describe_old_keys(key: str, value: object) -> list[str]:
    """Return a sentence for each key of the earlier files in an unknown key or section; empty when there is none."""
    if key in RENAMED:
        return [f"{key} is now {RENAMED[key]}"]
    section = _SECTIONS.get(key)
    if section is None:
        return []
    names = value if isinstance(value, Mapping) else {}
    found = [
        f"{key}.{name} is now {RENAMED[f'{key}.{name}']}" for name in names if f"{key}.{name}" in RENAMED
    ]
    return found or [f"the section {key} is now {section}"]
