"""Planted slips: each slip file is well formed and fits the tree; the runner tells caught from survived."""

import textwrap
from pathlib import Path

import pytest

from tests.mutants.__main__ import check_slip, main
from tests.mutants.run import Outcome, copied_tree, run_slip
from tests.mutants.slip import BadSlip, Hunk, Slip, plant, read_slip, slip_files

SLIP = """\
slip: The sum is a difference.
order: first
tests: tests/test_sum.py

--- a/catalyst/sums.py
+++ b/catalyst/sums.py
@@ -900,2 +900,2 @@
 def add(a, b):
-    return a + b
+    return a - b
"""


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    """Return a folder with one module and its tests."""
    root = tmp_path / "main"
    for file, text in {
        "catalyst/__init__.py": "",
        "catalyst/sums.py": "def add(a, b):\n    return a + b\n\n\ndef double(a):\n    return add(a, a)\n",
        "tests/test_sum.py": """\
            from catalyst.sums import add, double

            def test_zero():
                assert add(0, 0) == 0

            def test_double():
                assert double(2) == 4
            """,
        "pyproject.toml": "[tool.pytest.ini_options]\npythonpath = ['.']\n",
    }.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text(textwrap.dedent(text))
    return root


def small_slip(tmp_path: Path, text: str = SLIP) -> Slip:
    """Return the slip of a new file with this text."""
    path = tmp_path / "domain_sum.patch"
    path.write_text(text)
    return read_slip(path)


def test_slip_files_are_well_formed_and_apply() -> None:
    """Each slip has its header, changes product code, fits the tree, and names tests that exist."""
    assert [problem for path in slip_files() for problem in check_slip(path)] == []


def test_slip_files_plant_different_slips() -> None:
    """No two files plant the same change or describe it with the same sentence."""
    slips = [read_slip(path) for path in slip_files()]
    assert len({slip.sentence for slip in slips}) == len(slips)
    assert len({slip.hunks for slip in slips}) == len(slips)


def test_plant_ignores_line_numbers_when_lines_move(small_tree: Path, tmp_path: Path) -> None:
    """A hunk with wrong line numbers changes the lines that it names, also below new lines."""
    module = small_tree / "catalyst/sums.py"
    module.write_text('"""Sums."""\n\n' + module.read_text())
    assert "return a - b" in plant(small_slip(tmp_path), small_tree)["catalyst/sums.py"]
    assert "return a + b" in module.read_text()


@pytest.mark.parametrize("times", [0, 2])
def test_plant_refuses_a_hunk_when_its_lines_do_not_stand_once(
    small_tree: Path, tmp_path: Path, times: int
) -> None:
    """A hunk whose old lines are gone or stand twice is refused."""
    module = small_tree / "catalyst/sums.py"
    module.write_text(module.read_text() * times)
    with pytest.raises(BadSlip, match=f"{times} times"):
        plant(small_slip(tmp_path), small_tree)


def test_plant_refuses_a_slip_when_the_result_is_no_python(small_tree: Path) -> None:
    """A slip that breaks the syntax proves nothing and is refused."""
    slip = Slip(
        "domain_sum", "", "first", (), (Hunk("catalyst/sums.py", "    return a + b\n", "    return (\n"),)
    )
    with pytest.raises(BadSlip, match="no Python"):
        plant(slip, small_tree)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("order: first", "order: third", "header"),
        ("tests: tests/test_sum.py\n", "", "header"),
        ("a difference.", "a difference", "header"),
        ("catalyst/sums.py", "tests/test_sum.py", "not product code"),
        ("@@ -900,2 +900,2 @@", "no hunk", "no hunk"),
        ("a - b", "a + b", "changes nothing"),
    ],
)
def test_slip_file_is_refused_when_it_breaks_the_format(
    tmp_path: Path, old: str, new: str, problem: str
) -> None:
    """A wrong header, a change outside the product, and an empty diff are refused."""
    with pytest.raises(BadSlip, match=problem):
        small_slip(tmp_path, SLIP.replace(old, new))


def test_run_slip_names_the_first_failing_test_when_the_slip_is_caught(
    small_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slip is caught by the first test that fails, survives tests that pass, and is an error when pytest finds
    no test; the copy and the tree stay unchanged."""
    monkeypatch.setenv(
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1"
    )  # a start takes tenths of a second instead of seconds
    slip = small_slip(tmp_path)
    before = (small_tree / "catalyst/sums.py").read_text()
    with copied_tree(small_tree) as copy:
        caught = run_slip(slip, copy)
        survived = run_slip(small_slip(tmp_path, SLIP.replace("test_sum.py", "test_sum.py::test_zero")), copy)
        missing = run_slip(small_slip(tmp_path, SLIP.replace("test_sum.py", "test_gone.py")), copy)
        assert (copy / "catalyst/sums.py").read_text() == before
    assert (caught.outcome, caught.test) == (Outcome.CAUGHT, "tests/test_sum.py::test_double")
    assert (survived.outcome, survived.test) == (Outcome.SURVIVED, "")
    assert missing.outcome is Outcome.ERROR
    assert (small_tree / "catalyst/sums.py").read_text() == before


def test_check_counts_the_slips_that_apply(capsys: pytest.CaptureFixture[str]) -> None:
    """`--check` reads every slip file and runs no test."""
    assert main(["--check"]) == 0
    assert f"{len(slip_files())} of {len(slip_files())} slips apply" in capsys.readouterr().out
