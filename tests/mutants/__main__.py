"""Planted slips: plants each slip of `tests/mutants/` in a copy of the tree and runs the tests it names.

    python -m tests.mutants                    all slips; writes docs/mutants.md
    python -m tests.mutants --only orders_     slips whose name begins so; writes no page
    python -m tests.mutants --check            reads and plants each slip in memory, runs no test

The exit code is 1 when fewer than 90 % are caught, when a slip does not apply, or when a run ends in an error.
"""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.mutants.run import Outcome, Result, confirm_results, run_slips
from tests.mutants.slip import ROOT, BadSlip, find_missing_tests, plant, read_slip, slip_files

PAGE: Final = ROOT / "docs" / "mutants.md"
SHARE_TO_CATCH: Final = 0.9


def check_slip(path: Path) -> list[str]:
    """Return the problems of a slip file: its format, its diff, its named tests."""
    try:
        slip = read_slip(path)
        plant(slip, ROOT)
    except BadSlip as problem:
        return [str(problem)]
    return [f"{slip.name}: {test} does not exist" for test in find_missing_tests(slip, ROOT)]


def share_caught(results: Sequence[Result]) -> float:
    """Return the part of the slips that a test caught, 0 to 1."""
    return sum(result.outcome is Outcome.CAUGHT for result in results) / max(len(results), 1)


def render_page(results: Sequence[Result]) -> str:
    """Return the text of docs/mutants.md."""
    caught = sum(result.outcome is Outcome.CAUGHT for result in results)
    lines = [
        "# Planted slips",
        "",
        "Written by `make mutants`. Each slip is a small patch in `tests/mutants/`, such as a tired programmer",
        "writes. A slip of the first order shows on a plain day; one of the second order shows only with a second",
        "symbol, crossing, restart, page or day, a short in a rare state, late or repeated data, an empty list or a",
        "missing lock. The runner plants one slip at a time in a copy of the tree and runs the tests that the patch",
        "names; the last column is the first test that failed. Each of these tests passes without the slip.",
        "",
        f"**{caught} of {len(results)} caught.**",
        "",
        "| slip | what is wrong | order | caught by |",
        "|---|---|---|---|",
    ]
    for result in results:
        proof = f"`{result.test}`" if result.outcome is Outcome.CAUGHT else f"**{result.outcome}**"
        lines.append(f"| `{result.name}` | {result.sentence} | {result.order} | {proof} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the selected slips; return 0 when enough are caught and each applies, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--only", action="append", default=[], help="run slips whose name begins so")
    parser.add_argument("--check", action="store_true", help="run no test")
    parser.add_argument("--jobs", type=int, default=2, help="slips run at a time, each in its own copy")
    options = parser.parse_args(arguments)
    files = [path for path in slip_files() if not options.only or path.stem.startswith(tuple(options.only))]
    problems = {path: found for path in files if (found := check_slip(path))}
    for found in problems.values():
        print("\n".join(found), flush=True)
    if options.check:
        print(f"{len(files) - len(problems)} of {len(files)} slips apply")
        return 1 if problems else 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops the tests and removes the copies
    began = time.monotonic()
    results = [
        Result(path.stem, "", "", Outcome.DOES_NOT_APPLY, found[0].splitlines()[0], 0)
        for path, found in problems.items()
    ]
    for result in run_slips([read_slip(path) for path in files if path not in problems], options.jobs):
        results.append(result)
        print(f"{result.outcome:15} {result.seconds:4.0f} s  {result.name}  {result.test}", flush=True)
    results = confirm_results(results)
    results.sort(key=lambda result: result.name)
    if not options.only:
        PAGE.write_text(render_page(results))
    share = share_caught(results)
    for outcome in (Outcome.SURVIVED, Outcome.DOES_NOT_APPLY, Outcome.ERROR):
        for result in results:
            if result.outcome is outcome:
                print(f"{outcome}: {result.name}  {result.test}")
    caught = sum(result.outcome is Outcome.CAUGHT for result in results)
    print(f"{caught} of {len(results)} caught ({share:.0%}) in {time.monotonic() - began:.0f} s")
    broken = any(result.outcome in {Outcome.DOES_NOT_APPLY, Outcome.ERROR} for result in results)
    return 1 if broken or share < SHARE_TO_CATCH else 0


if __name__ == "__main__":
    sys.exit(main())
