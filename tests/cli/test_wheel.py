"""The wheel `catalyst-trading`: built, installed into an empty environment and run without the checkout."""

import json
import shutil
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

from catalyst.config.loader import environment_without_catalyst
from catalyst.installation import VERSION
from tests.wheel_sources import SOURCES

ROOT = Path(__file__).parents[2]


def run(*command: object, cwd: Path, exit_code: int = 0) -> str:
    """Run a command outside the checkout; return its output."""
    environment = environment_without_catalyst(HOME=str(cwd), XDG_DATA_HOME=str(cwd / "share"))
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source)
    build = (
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--wheel-dir",
        folder,
        source,
    )
    run(sys.executable, "-m", "pip", *build, cwd=folder)
    (built,) = folder.glob("catalyst_trading-*.whl")
    return built


def test_wheel_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """In an environment with the wheel and its dependencies: the version, the migrations on the embedded database and
    the files of the service."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel,
        cwd=tmp_path)  # fmt: skip
    # The dependencies are those of this environment; only Catalyst comes from the wheel.
    dependencies = find_spec("asyncpg")
    assert dependencies is not None
    assert dependencies.origin is not None
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{Path(dependencies.origin).parents[1]}\n")
    catalyst = home / "bin" / "catalyst"
    assert run(catalyst, "--version", cwd=tmp_path) == f"catalyst {VERSION}\n"
    code = "import catalyst.installation as i; print(i.shipped_folder('migrations'))"
    assert run(python, "-c", code, cwd=tmp_path).startswith(str(packages))
    assert (packages / "catalyst" / "monitoring" / "alert-rules.yml").is_file()
    applied = json.loads(run(catalyst, "migrate", "--json", cwd=tmp_path))
    assert set(applied) == {"applied"}
    states = json.loads(run(catalyst, "migrate", "--status", "--json", cwd=tmp_path))
    assert [state["name"] for state in states] == [
        path.stem for path in sorted((ROOT / "migrations").glob("*.sql"))
    ]
    assert {state["state"] for state in states} == {"applied"}
    printed = run(catalyst, "install-service", cwd=tmp_path)
    assert f"ExecStart={catalyst} run" in printed
    assert printed.count("# ---- /") == len(list((ROOT / "systemd").iterdir()))


def test_source_archive_holds_migrations_and_units() -> None:
    """MANIFEST.in names each folder that the wheel takes from beside the package."""
    manifest = (ROOT / "MANIFEST.in").read_text()
    assert all(f"recursive-include {name} *" in manifest for name in ("migrations", "monitoring", "systemd"))
