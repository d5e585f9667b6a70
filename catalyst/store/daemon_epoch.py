"""Daemon epoch: the number that fences every order write, the account of this database, and the run's facts."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from catalyst.domain.errors import WrongAccount
from catalyst.store.pool import Connection, storable_text


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Code and configuration of one run of the daemon."""

    version: str
    commit: str
    config_hash: str
    lockfile_hash: str
    pid: int


@dataclass(frozen=True, slots=True)
class DaemonStatement:
    """What a running daemon says about itself: its settings, which a reload changes, and its scans. Dollars."""

    mode: str
    session_mode: str
    broker_url: str
    config_hash: str
    max_positions: int
    max_daily_loss: Decimal
    next_scan_at: datetime | None  # by the schedule of the day; None: no scan is due any more
    scan_failure: str | None  # of the last scan; None when it succeeded


@dataclass(frozen=True, slots=True)
class DaemonRow:
    """The current epoch and its run, as the daemon wrote them; everything but the epoch is None before the first
    start."""

    epoch: int
    account_id: str | None
    started_at: datetime | None
    version: str | None
    commit: str | None
    config_hash: str | None
    lockfile_hash: str | None
    pid: int | None
    heartbeat_at: datetime | None
    mode: str | None = None
    session_mode: str | None = None
    broker_url: str | None = None
    max_positions: int | None = None
    max_daily_loss: Decimal | None = None
    next_scan_at: datetime | None = None
    scan_failure: str | None = None


async def begin_epoch(
    conn: Connection, account_id: str, run_info: RunInfo, *, at: datetime, installation: str | None = None
) -> int:
    """Begin a new epoch and return its number; order writes of an earlier epoch are refused from now on.

    Waits for order writes in progress. The first daemon pins the account, another account raises WrongAccount, and
    gives the database its installation id: `installation`, the id of an earlier database of this account, or a new one.
    """
    stored_account = await conn.fetchval("SELECT account_id FROM daemon FOR UPDATE")
    if stored_account not in (None, account_id):
        raise WrongAccount(
            f"this database belongs to account {stored_account}, the broker shows account {account_id}: one database "
            "keeps one account. Name another database (DATABASE_URL or database.data_dir), or use that account's keys; "
            "a simulated account is kept by `catalyst sim --state FOLDER`"
        )
    epoch: int = await conn.fetchval(
        """
        WITH updated AS (
            UPDATE daemon
               SET epoch = epoch + 1, account_id = $1, started_at = $2, version = $3, commit = $4,
                   config_hash = $5, lockfile_hash = $6, pid = $7, heartbeat_at = $2,
                   installation = coalesce(installation, $8, left(replace(gen_random_uuid()::text, '-', ''), 6))
            RETURNING *
        )
        INSERT INTO daemon_runs (epoch, account_id, started_at, version, commit, config_hash, lockfile_hash, pid)
        SELECT epoch, account_id, started_at, version, commit, config_hash, lockfile_hash, pid FROM updated
        RETURNING epoch
        """,
        account_id,
        at,
        run_info.version,
        run_info.commit,
        run_info.config_hash,
        run_info.lockfile_hash,
        run_info.pid,
        installation,
    )
    return epoch


async def installation(conn: Connection) -> str:
    """Return the installation id; empty before the first start."""
    found: str | None = await conn.fetchval("SELECT installation FROM daemon")
    return found or ""


async def is_current(conn: Connection, epoch: int) -> bool:
    """Return true when this epoch is current, and lock it until the transaction ends."""
    found: bool = await conn.fetchval("SELECT epoch = $1 FROM daemon FOR KEY SHARE", epoch)
    return found


async def current(conn: Connection) -> DaemonRow:
    """Return the current epoch and its run."""
    record = await conn.fetchrow(
        """
        SELECT epoch, account_id, started_at, version, commit, config_hash, lockfile_hash, pid, heartbeat_at,
               mode, session_mode, broker_url, max_positions, max_daily_loss, next_scan_at, scan_failure
          FROM daemon
        """
    )
    assert record is not None  # the migration inserted the one row
    return DaemonRow(**record)


async def account(conn: Connection) -> str | None:
    """Return the account that this database belongs to; None before the first run. Works on any release's schema."""
    account_id: str | None = await conn.fetchval("SELECT account_id FROM daemon")
    return account_id


async def runs_since(conn: Connection, since: datetime) -> int:
    """Return how many runs have begun after `since`, this one included."""
    count: int = await conn.fetchval("SELECT count(*) FROM daemon_runs WHERE started_at > $1", since)
    return count


async def heartbeat(conn: Connection, epoch: int, *, at: datetime) -> bool:
    """Write the heartbeat of `epoch`; false when another epoch is current. Does not wait for order writes."""
    return (
        await conn.fetchval("UPDATE daemon SET heartbeat_at = $2 WHERE epoch = $1 RETURNING true", epoch, at)
        is not None
    )


async def put_statement(conn: Connection, epoch: int, statement: DaemonStatement) -> None:
    """Store what the daemon of `epoch` says about itself; nothing when another epoch is current."""
    await conn.execute(
        """
        UPDATE daemon SET mode = $2, session_mode = $3, broker_url = $4, config_hash = $5, max_positions = $6,
               max_daily_loss = $7, next_scan_at = $8, scan_failure = $9
         WHERE epoch = $1
        """,
        epoch,
        statement.mode,
        statement.session_mode,
        statement.broker_url,
        statement.config_hash,
        statement.max_positions,
        statement.max_daily_loss,
        statement.next_scan_at,
        None if statement.scan_failure is None else storable_text(statement.scan_failure, 1_000),
    )


async def end_epoch(conn: Connection, epoch: int, *, end_reason: str, at: datetime) -> None:
    """Record how the run ended. Its number stays current until the next run begins."""
    await conn.execute(
        "UPDATE daemon_runs SET ended_at = $2, end_reason = $3 WHERE epoch = $1 AND ended_at IS NULL",
        epoch,
        at,
        end_reason,
    )
