"""The second lock is there: every trigger and function that the migrations put before the tables is in place.

A migration that was applied says nothing of what somebody dropped or disabled afterwards.
"""

import re
from pathlib import Path
from typing import Final

from catalyst.store.migrate import FOLDER, SchemaNotCurrent, migrations
from catalyst.store.pool import Connection

_CREATED: Final = re.compile(
    r"\b(CREATE|DROP)\s+(?:OR\s+REPLACE\s+)?(?:CONSTRAINT\s+)?(TRIGGER|FUNCTION)\s+(?:IF\s+EXISTS\s+)?(\w+)",
    re.I,
)


def guards_of(folder: Path = FOLDER) -> dict[str, set[str]]:
    """Names of the triggers and of the functions that exist once every migration has run, by kind."""
    found: dict[str, set[str]] = {"trigger": set(), "function": set()}
    for migration in migrations(folder):
        for verb, kind, name in _CREATED.findall(migration.sql):
            names = found[kind.lower()]
            if verb.upper() == "CREATE":
                names.add(name.lower())
            else:
                names.discard(name.lower())
    return found


async def require_guards(conn: Connection, *, folder: Path = FOLDER) -> None:
    """Nothing of it was dropped or disabled; raises SchemaNotCurrent, which names what is missing."""
    wanted = guards_of(folder)
    there = await conn.fetch(
        """
        SELECT 'trigger' AS kind, tgname::text AS name FROM pg_trigger
         WHERE NOT tgisinternal AND tgenabled IN ('O', 'A')
        UNION
        SELECT 'function', proname::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
        """
    )
    present = {(row["kind"], row["name"]) for row in there}
    missing = sorted(
        f"{kind} {name}" for kind, names in wanted.items() for name in names if (kind, name) not in present
    )
    if missing:
        raise SchemaNotCurrent(
            f"the database lacks {', '.join(missing)}: dropped or disabled since it was migrated; restore a backup, "
            "or put back what the migrations define"
        )
