"""The file that keeps the installation id of an account when its database is lost."""

from pathlib import Path

import pytest

from catalyst.daemon.trading_state.installation_file import InstallationFile
from catalyst.domain.errors import UserError


def test_installation_file_keeps_the_last_id_of_each_account(tmp_path: Path) -> None:
    """Each account has its own file; it holds what was written last, and nothing but it."""
    folder = tmp_path / "spool"
    first, second = (InstallationFile.of_account(folder, name) for name in ("PA1@127.0.0.1:80", "PA2"))
    assert first.read() is None
    for installation in ("00abcd", "12ef34", "12ef34"):
        first.write(installation)
        assert (first.read(), second.read()) == (installation, None)
    assert [path.name for path in folder.iterdir()] == ["PA1@127.0.0.1:80.installation"]


@pytest.mark.parametrize("content", [b"", b"12ef3", b"12EF34", b"12ef34 12ef34", b"\xff\xfe"])
def test_damaged_installation_file_stops_the_start(tmp_path: Path, content: bytes) -> None:
    """A file that holds no id is named; a new id in its place would make our orders another Catalyst's."""
    file = InstallationFile.of_account(tmp_path, "PA1")
    file.path.write_bytes(content)
    with pytest.raises(UserError, match=r"PA1\.installation"):
        file.read()


def test_installation_file_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    """The id is in the database, so the daemon goes on."""
    (tmp_path / "spool").write_text("a file instead of the folder")
    InstallationFile.of_account(tmp_path / "spool", "PA1").write("12ef34")
