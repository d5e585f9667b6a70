"""`catalyst init --from-v6`: the earlier Catalyst's three files become config.yaml and .env."""

from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from catalyst.cli.app import app
from catalyst.config.env_file import read_env_file
from catalyst.config.from_v6 import read_v6
from catalyst.domain.errors import ConfigInvalid

V6_FILES = Path(__file__).with_name("v6_files")


@pytest.fixture
def v6(tmp_path: Path) -> Path:
    """Return a folder with the files of the earlier system's guide."""
    folder = tmp_path / "v6"
    (folder / "config").mkdir(parents=True)
    (folder / ".env").write_text((V6_FILES / "env.txt").read_text())
    for name in ("trading_config.yaml", "risk_parameters.yaml"):
        (folder / "config" / name).write_text((V6_FILES / name).read_text())
    return folder


def change(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def test_files_of_the_guide_become_a_valid_configuration(v6: Path, tmp_path: Path) -> None:
    """Every key has its name of today, the mode is paper, and each key that has no use any more is explained."""
    target = tmp_path / "new"
    target.mkdir()
    done = CliRunner().invoke(
        app, ["init", "--from-v6", str(v6), "--folder", str(target)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    config = yaml.safe_load((target / "config.yaml").read_text())
    assert config["trading"]["mode"] == "paper"
    assert config["risk"]["max_daily_loss"] == 2000
    assert config["emergency"]["cooldown_period_minutes"] == 60
    assert config["sector_limits"]["sectors_to_limit"] == ["Technology", "Finance", "Health Care"]
    variables = {variable.name: variable.value for variable in read_env_file(target / ".env", ())}
    assert variables["SMTP_PASSWORD"] == "your-app-specific-password"
    assert "MAX_DAILY_LOSS" not in variables  # one place for each limit
    assert not any(name.startswith("REDIS") for name in variables)
    for retired in ("session.market_open", "REDIS_HOST", "ENABLE_LIVE_TRADING", "ALPACA_BASE_URL"):
        assert f"{retired} is left out: " in done.output
    assert "differ" not in done.output
    assert "STRONG_PASSWORD" not in done.output


def test_the_stricter_of_two_values_wins_and_is_listed(v6: Path) -> None:
    """Between the two files and .env the lower limit, the longer pause and the safer switch win, in any place."""
    change(v6 / ".env", "MAX_DAILY_LOSS=2000", "MAX_DAILY_LOSS=1500")
    change(v6 / ".env", "TRADING_SESSION_MODE=supervised", "TRADING_SESSION_MODE=autonomous")
    change(v6 / "config" / "trading_config.yaml", "max_positions: 5", "max_positions: 3")
    change(v6 / "config" / "risk_parameters.yaml", "max_exposure_pct: 40", "max_exposure_pct: 35")
    change(v6 / "config" / "trading_config.yaml", "scan_frequency_minutes: 30", "scan_frequency_minutes: 60")
    found = read_v6(v6)
    assert {
        key: str(found.values[key]) for key in found.values if key.startswith(("risk.max_", "session.mode"))
    } == {
        "risk.max_daily_loss": "1500",
        "risk.max_position_size": "5000.0",
        "risk.max_positions": "3",
        "risk.max_sector_exposure_pct": "35.0",
        "risk.max_correlation": "0.7",
        "session.mode": "supervised",
    }
    assert found.values["workflow.scan_frequency_minutes"] == 60
    listed = [note.partition(":")[0] for note in found.notes if "differ" in note]
    assert set(listed) == {
        "risk.max_daily_loss", "session.mode", "risk.max_positions", "risk.max_sector_exposure_pct",
        "workflow.scan_frequency_minutes",
    }  # fmt: skip


def test_files_that_cannot_be_merged_are_refused(v6: Path, tmp_path: Path) -> None:
    """Values of which neither is stricter, an unknown key and a folder without the files are named."""
    with pytest.raises(ConfigInvalid, match="has none of"):
        read_v6(tmp_path)
    change(v6 / "config" / "risk_parameters.yaml", "check_enabled: true", "check_it: true")
    with pytest.raises(ConfigInvalid, match=r"risk_parameters.yaml: correlation.check_it"):
        read_v6(v6)
    (v6 / "config" / "risk_parameters.yaml").write_text("positions:\n  default_take_profit_pct: 8\n")
    with pytest.raises(ConfigInvalid, match=r"default_take_profit_pct is 6.0 and 8.0: make the files agree"):
        read_v6(v6)
