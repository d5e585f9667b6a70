"""Schema checks: every trigger and function of the migrations is in place.

An applied migration does not show what somebody dropped or disabled afterwards.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from catalyst.store.migrate import (
    MIGRATIONS_FOLDER,
    REVOKED_RIGHTS,
    SchemaNotCurrent,
    migrations,
    roles_sql,
)
from catalyst.store.pool import Connection

_CREATE_OR_DROP: Final = re.compile(
    r"\b(CREATE|DROP)\s+(?:OR\s+REPLACE\s+)?(?:CONSTRAINT\s+)?(TRIGGER|FUNCTION)\s+(?:IF\s+EXISTS\s+)?(\w+)",
    re.I,
)


def expected_constraints(folder: Path = MIGRATIONS_FOLDER) -> dict[str, set[str]]:
    """Return the names of the triggers and functions that exist after every migration, by kind."""
    found: dict[str, set[str]] = {"trigger": set(), "function": set()}
    for migration in migrations(folder):
        for verb, kind, name in _CREATE_OR_DROP.findall(migration.sql):
            names = found[kind.lower()]
            if verb.upper() == "CREATE":
                names.add(name.lower())
            else:
                names.discard(name.lower())
    return found


async def require_constraints(conn: Connection, *, folder: Path = MIGRATIONS_FOLDER) -> None:
    """Check that none of them was dropped or disabled. Raises SchemaNotCurrent, which names what is missing."""
    expected = expected_constraints(folder)
    existing = await conn.fetch(
        """
        SELECT 'trigger' AS kind, tgname::text AS name FROM pg_trigger
         WHERE NOT tgisinternal AND tgenabled IN ('O', 'A')
        UNION
        SELECT 'function', proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        """
    )
    present = {(row["kind"], row["name"]) for row in existing}
    missing = sorted(
        f"{kind} {name}" for kind, names in expected.items() for name in names if (kind, name) not in present
    )
    if missing:
        raise SchemaNotCurrent(
            f"the database lacks {', '.join(missing)}: dropped or disabled since it was migrated; restore a backup, "
            "or create them again as the migrations define them"
        )


def required_daemon_privileges(tables: Iterable[str]) -> set[tuple[str, str]]:
    """Return (table, verb) for every grant of the daemon's role on `tables`."""
    privileges = {(table, verb) for table in tables for verb in ("SELECT", "INSERT", "UPDATE")}
    for verbs, names in REVOKED_RIGHTS.findall(roles_sql()):
        privileges -= {(name.strip(), verb.strip()) for name in names.split(",") for verb in verbs.split(",")}
    return privileges


async def require_privileges(conn: Connection) -> None:
    """Check that our role may do what a day needs. Raises SchemaNotCurrent, which names what is missing."""
    relations = await conn.fetch(
        """
        SELECT relname::text AS name, relkind = 'S' AS is_sequence,
               CASE WHEN relkind = 'S' THEN has_sequence_privilege(oid, 'USAGE')
                    ELSE has_table_privilege(oid, 'SELECT') END AS "SELECT",
               relkind <> 'S' AND has_table_privilege(oid, 'INSERT') AS "INSERT",
               relkind <> 'S' AND has_table_privilege(oid, 'UPDATE') AS "UPDATE"
          FROM pg_class
         WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'S')
        """
    )
    tables = {row["name"]: row for row in relations if not row["is_sequence"]}
    missing = [
        f"{verb} on {name}" for name, verb in required_daemon_privileges(tables) if not tables[name][verb]
    ]
    missing += [f"USAGE on {row['name']}" for row in relations if row["is_sequence"] and not row["SELECT"]]
    if missing:
        raise SchemaNotCurrent(
            f"the database's role lacks {', '.join(sorted(missing))}: have its owner run what "
            "`catalyst migrate --roles` prints"
        )
