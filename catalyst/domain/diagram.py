"""The state machines as pictures, printed from their tables: `make docs` writes docs/machines.md from here."""

from typing import Final

from catalyst.domain.cycle import CYCLE_EDGES
from catalyst.domain.order import EDGES, NEVER_ARRIVED, EdgeKind, Status
from catalyst.domain.position import POSITION_EDGES

_PAGE_HEADER: Final = """# State machines

Printed from the tables in `catalyst/domain` by `make docs`; a test fails when this page and the tables differ.
"""
_ORDER_HEADER: Final = """## Order

Late edges are what really happens after an end: journaled as late, and the operator is paged. What began at the \
broker (a leg, somebody else's order) begins in the journal as what it was first seen as.
"""


def render_page() -> str:
    """The whole page, Markdown with Mermaid diagrams."""
    order = [(str(seen), str(then), _label(seen, kind)) for (seen, then), kind in EDGES.items()]
    cycle = sorted((str(seen), str(then), "") for seen, then in CYCLE_EDGES)
    position = sorted((str(seen), str(then), "") for seen, then in POSITION_EDGES)
    parts = [
        _PAGE_HEADER,
        _ORDER_HEADER,
        _render_diagram("created", order),
        "\n## Cycle\n",
        _render_diagram("idle", cycle),
        "\n## Position\n",
        _render_diagram("open", position),
    ]
    return "\n".join(parts)


def _label(seen: Status, kind: EdgeKind) -> str:
    if kind is EdgeKind.NORMAL:
        return ""
    return f"late, only {NEVER_ARRIVED}" if seen is Status.REJECTED else "late"


def _render_diagram(start: str, edges: list[tuple[str, str, str]]) -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {start}"]
    lines += [f"    {seen} --> {then}" + (f" : {label}" if label else "") for seen, then, label in edges]
    return "\n".join([*lines, "```", ""])
