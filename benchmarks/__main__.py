"""`make bench`: every figure this project quotes, measured here and now, in about a quarter of an hour.

Rounds and history are short by default: ROUNDS, BURSTS, LOOKS, LIVES, SEEDS, OPEN and PAST (orders of earlier days)
in the environment make them longer. Each module has
`run() -> list[(name, value, unit)]`. Name one or more to run only those.
"""

import importlib
import sys
from pathlib import Path


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all; print a line a figure."""
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.stderr.write(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}\n")
        return 1
    for name in names or known:
        module = importlib.import_module(f"benchmarks.{name}")
        sys.stdout.write(f"\n{name}: {(module.__doc__ or '').splitlines()[0]}\n")
        for figure, value, unit in module.run():
            sys.stdout.write(f"  {figure:<58} {value:>12,.3f} {unit}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
