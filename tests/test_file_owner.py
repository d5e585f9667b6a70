"""Files that root writes for a service of another user belong to that user."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from catalyst.daemon.outage.spool import Spool, SpoolEntryKind
from catalyst.daemon.trading_state.host_lock import HostLock
from catalyst.daemon.trading_state.installation_file import InstallationFile
from catalyst.domain.errors import ConfigInvalid
from catalyst.flat_proof_files import FlatProofFiles

NOW = datetime(2026, 11, 30, 15, 0, tzinfo=UTC)
NOBODY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_files_of_a_flatten_by_root_belong_to_the_owner_of_the_folder(tmp_path: Path) -> None:
    """Lock, spool, proof and installation file that root writes belong to the user of the service; a file that has a
    second name elsewhere stays root's."""
    os.chown(tmp_path, NOBODY, NOBODY)
    other = tmp_path / "other"
    other.touch()
    os.link(other, tmp_path / "linked.lock")
    HostLock.acquire(tmp_path, "account", "process 1").release()
    assert Spool(tmp_path, "account").write(SpoolEntryKind.LATCH, NOW, name="flatten")
    assert FlatProofFiles(tmp_path, "account").write(NOW, {"flat": True}) is not None
    InstallationFile.of_account(tmp_path, "account").write("0a1b2c")
    HostLock.acquire(tmp_path, "linked", "process 1").release()
    owners = {path.suffix: path.stat().st_uid for path in tmp_path.glob("account.*")}
    assert owners == dict.fromkeys((".lock", ".spool", ".json", ".installation"), NOBODY)
    assert other.stat().st_uid == 0


def test_lock_and_spool_follow_no_link(tmp_path: Path) -> None:
    """A link in the place of the lock or of the spool is refused: its target is no file of ours."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    for name in ("account.lock", "account.spool"):
        (tmp_path / name).symlink_to(victim)
    with pytest.raises(ConfigInvalid, match="cannot be written"):
        HostLock.acquire(tmp_path, "account", "process 1")
    assert not Spool(tmp_path, "account").write(SpoolEntryKind.LATCH, NOW, name="flatten")
    assert victim.read_text() == "untouched"
