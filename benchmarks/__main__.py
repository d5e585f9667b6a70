"""`make bench`: measures every figure that this project quotes, in about twenty minutes.

Rounds and history are short by default. The environment variables ROUNDS, BURSTS, LOOPS_ROUNDS, RESTARTS, SEEDS,
OPEN_POSITIONS and PAST (orders of earlier days) make them longer. Each module has `run() -> list[(name, value, unit)]`.
Name one or more modules to run only these.
"""

import importlib
import sys
from pathlib import Path


def main(names: list[str]) -> int:
    """Run the named benchmarks, or all, and print one line per figure; return the exit code."""
    available = sorted(
        path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_")
    )
    unknown = [name for name in names if name not in available]
    if unknown:
        sys.stderr.write(f"no benchmark {', '.join(unknown)}; there are {', '.join(available)}\n")
        return 1
    for name in names or available:
        module = importlib.import_module(f"benchmarks.{name}")
        sys.stdout.write(f"\n{name}: {(module.__doc__ or '').splitlines()[0]}\n")
        for figure, value, unit in module.run():
            sys.stdout.write(f"  {figure:<58} {value:>12,.3f} {unit}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
