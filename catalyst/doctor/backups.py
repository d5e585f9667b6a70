"""Backups: the age of the last one in the folder of this machine."""

from datetime import datetime, timedelta

from catalyst.backup_files import backups_in
from catalyst.config.schema import Mode
from catalyst.config.settings import Settings
from catalyst.doctor.issues import Issue, IssueKind, new_issue


def backup_issues(settings: Settings, *, database_since: datetime | None, at: datetime) -> list[Issue]:
    """Return an issue when the last backup, or a database without one, is older than the configuration allows.

    Simulated days are not backed up, so sim has none.
    """
    hours = settings.config.database.warn_backup_age_hours
    if hours == 0 or settings.mode is Mode.SIM:
        return []
    folder = settings.backups_dir
    try:
        files = backups_in(folder)
    except OSError as error:
        return [_stale(f"the folder of the backups cannot be read: {error}")]
    since = files[-1].at if files else database_since
    if since is None or at - since <= timedelta(hours=hours):
        return []
    if not files:
        return [_stale(f"there is no backup in {folder}")]
    return [
        _stale(f"the last backup, {files[-1].path}, is {(at - since) / timedelta(hours=1):.0f} hours old")
    ]


def _stale(message: str) -> Issue:
    return new_issue(IssueKind.BACKUP_STALE, message)
