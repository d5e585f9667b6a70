"""Addresses: what an invalid configuration still tells, and when nobody knows which account or database is meant."""

import os
from pathlib import Path

import pytest

from catalyst.config.addresses import load_addresses
from catalyst.config.settings import Environment
from catalyst.domain.errors import ConfigInvalid

LOST_SPOOL = "database:\n  spool: [/var/lib\nrisk:\n  max_positions: 3\n"


@pytest.fixture(autouse=True)
def _only_the_database_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower() in Environment.model_fields]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DATABASE_URL", "postgresql://trader@host/books")


@pytest.mark.parametrize(
    ("text", "account_problem"),
    [
        ("risk:\n  max_positons: 3\n", None),
        ("session:\n  mode: boss\ntrading:\n  mode: sim\n", None),
        ("database:\n  keep_scan_frames_days: many\n", None),
        (LOST_SPOOL, "database.spool"),
        ("database:\n  spol: /x\n", "database.spol"),
        ("databse:\n  spool: /x\n", "database.spool"),
        ("database: /x\n", "database"),
        ("trading:\n\tmode: live\n", "trading.mode"),
        ("trading:\n  mode: papr\n", "trading.mode"),
        ("broker:\n  simulator: [http\n", "broker.simulator"),
    ],
)
def test_lost_address_makes_the_account_unknown(
    tmp_path: Path, text: str, account_problem: str | None
) -> None:
    """A lost key that may name the account or the lock refuses a flatten; the database stays known, whatever the name
    of the folder."""
    folder = tmp_path / "database-host"
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    addresses = load_addresses(folder / "config.yaml", env_file=None)
    assert addresses.problem
    if account_problem is None:
        assert addresses.account_problem is None
    else:
        assert (
            addresses.account_problem == f"{account_problem} is not valid: correct it and repeat the command"
        )


@pytest.mark.parametrize("text", [LOST_SPOOL.replace("spool", "data_dir"), "database:\n  dat_dir: /x\n"])
def test_unknown_embedded_database_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Without DATABASE_URL, a lost database.data_dir leaves no database to use."""
    (tmp_path / "config.yaml").write_text(text)
    assert load_addresses(tmp_path / "config.yaml", env_file=None).account_problem
    monkeypatch.delenv("DATABASE_URL")
    with pytest.raises(ConfigInvalid):
        load_addresses(tmp_path / "config.yaml", env_file=None)
    (tmp_path / "config.yaml").write_text(LOST_SPOOL)
    assert load_addresses(tmp_path / "config.yaml", env_file=None).account_problem
