"""How finance uses words: valences on VADER's scale, -4 (worst) to 4 (best)."""

from typing import Final

FINANCE: Final[dict[str, float]] = {"beats": 2.5, "misses": -2.5, "upgraded": 2.5, "downgraded": -2.5}
