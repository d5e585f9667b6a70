"""Runs slips: each in a copy of the tree, never in the tree itself."""

import compileall
import os
import py_compile
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Final

from tests.mutants.slip import ROOT, BadSlip, Slip, plant

LIMIT_S: Final = 300.0  # a slip may make its tests wait for ever
STOP_S: Final = 30.0  # for pytest to stop its servers
_IGNORED: Final = shutil.ignore_patterns(
    ".*_cache", ".git", ".venv*", ".hypothesis", "__pycache__", "*.egg-info", "build", "dist", "var", "*.log"
)
_FAILED: Final = re.compile(r"^(?:FAILED|ERROR) (tests/[^\s\[]+)", re.MULTILINE)
_BEGUN: Final = re.compile(r"^(tests/[^\s\[]+::\w+)", re.MULTILINE)
# The plugin schemathesis takes a third of a start.
_OPTIONS: Final = ("-v", "-rfE", "--tb=short", "-p", "no:cacheprovider", "-p", "no:schemathesis")
_running: "set[subprocess.Popen[bytes]]" = set()
_PASSED, _NOT_PASSED, _STOPPED_EARLY = 0, 1, 2  # exit codes of pytest


class Outcome(StrEnum):
    """Result of one slip."""

    CAUGHT = "caught"
    SURVIVED = "survived"
    DOES_NOT_APPLY = "does not apply"
    ERROR = "error"


@dataclass(frozen=True)
class Result:
    """One run of a slip; `test` is the first test that failed, or the problem."""

    name: str
    sentence: str
    order: str
    outcome: Outcome
    test: str
    seconds: float


@contextmanager
def copied_tree(root: Path) -> Iterator[Path]:
    """Copy the tree to a new folder, beside a link to the data that the tests read from `../shared`."""
    folder = Path(tempfile.mkdtemp(prefix="catalyst-mutants-"))
    try:
        copy = folder / root.name
        shutil.copytree(root, copy, ignore=_IGNORED)
        if (shared := root.parent / "shared").exists():
            (folder / "shared").symlink_to(shared.resolve())
        # Hashes, since a slip may keep the size and the second of its file.
        compileall.compile_dir(
            copy / "catalyst", quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH
        )
        yield copy
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_slips(slips: Sequence[Slip], jobs: int, root: Path = ROOT) -> Iterator[Result]:
    """Run each slip, `jobs` at a time; yield a result when its tests end."""
    copies: queue.SimpleQueue[Path] = queue.SimpleQueue()
    with ExitStack() as stack:
        for _ in range(jobs):
            copies.put(stack.enter_context(copied_tree(root)))
        threads = stack.enter_context(ThreadPoolExecutor(jobs))
        # An interrupted run starts no other slip and leaves no pytest and no database server behind.
        stack.callback(_stop_all)
        stack.callback(threads.shutdown, wait=False, cancel_futures=True)
        for future in as_completed([threads.submit(_run_in_a_copy, slip, copies) for slip in slips]):
            yield future.result()


def confirm_results(results: Sequence[Result], root: Path = ROOT) -> list[Result]:
    """Run the failed tests without a slip; a result whose test fails then too becomes an error."""
    tests = sorted({result.test for result in results if result.outcome is Outcome.CAUGHT})
    with copied_tree(root) as copy:
        red = _find_red_tests(tests, copy)
    return [
        replace(result, outcome=Outcome.ERROR, test=f"{result.test} fails without the slip")
        if result.outcome is Outcome.CAUGHT and result.test in red
        else result
        for result in results
    ]


def run_slip(slip: Slip, copy: Path) -> Result:
    """Plant the slip in the copy, run its tests, and restore the copy."""
    began = time.monotonic()
    try:
        changed = plant(slip, copy)
    except BadSlip as problem:
        return Result(slip.name, slip.sentence, slip.order, Outcome.DOES_NOT_APPLY, str(problem), 0)
    before = {file: (copy / file).read_text() for file in changed}
    try:
        for file, text in changed.items():
            (copy / file).write_text(text)
        outcome, test = _run_tests(slip.tests, copy)
    finally:
        for file, text in before.items():
            (copy / file).write_text(text)
    return Result(slip.name, slip.sentence, slip.order, outcome, test, time.monotonic() - began)


def _run_in_a_copy(slip: Slip, copies: "queue.SimpleQueue[Path]") -> Result:
    """Run the slip in a copy that no other slip uses."""
    copy = copies.get()
    try:
        return run_slip(slip, copy)
    finally:
        copies.put(copy)


def _run_tests(tests: Sequence[str], copy: Path) -> tuple[Outcome, str]:
    """Run the tests up to the first failure; return the outcome and the first failing test."""
    code, printed = _run_pytest([*tests, "-x"], copy)
    failed = _FAILED.search(printed)
    if code == _PASSED:
        return Outcome.SURVIVED, ""
    if code in {_NOT_PASSED, _STOPPED_EARLY} and failed:
        return Outcome.CAUGHT, failed[1]
    begun = _BEGUN.findall(printed)
    if code is None and begun:  # the slip made this test wait for ever
        return Outcome.CAUGHT, begun[-1]
    return Outcome.ERROR, f"pytest ended with {code}: {printed.strip().splitlines()[-1:]}"


def _find_red_tests(tests: Sequence[str], copy: Path) -> set[str]:
    """Return the tests that fail in the unchanged copy, also when each runs alone."""
    if not tests:
        return set()
    code, printed = _run_pytest(tests, copy)
    if code == _PASSED:
        return set()
    suspects = set(_FAILED.findall(printed)) or set(tests)
    return {test for test in tests if test in suspects and _run_pytest([test], copy)[0] != _PASSED}


def _run_pytest(arguments: Sequence[str], copy: Path) -> tuple[int | None, str]:
    """Run pytest in the copy; return its exit code, None at the limit of time, and its output."""
    # A folder of its own: each session of the tests removes the unused server folders of others.
    (temporary := copy.parent / "tmp").mkdir(exist_ok=True)
    environment = os.environ | {
        "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(temporary)
    }  # fmt: skip
    command = [sys.executable, "-m", "pytest", *_OPTIONS, *arguments]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=copy,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        _running.add(process)
        code: int | None
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _stop(process)
            _running.discard(process)
        output.seek(0)
        return code, output.read()


def _stop_all() -> None:
    """Stop every pytest that runs."""
    for process in list(_running):
        _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Let pytest stop its servers; kill it when it does not."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            continue
