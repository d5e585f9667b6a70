"""docs/handbook.md: its commands run, every command that a page names exists, and every procedure has its test."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer
from cli.shell import Shell

from catalyst.cli.app import app
from tests.page_commands import ROOT, pages

PAGE = ROOT / "docs" / "handbook.md"
NAMED = re.compile(r"`catalyst ([a-z][a-z-]+)((?: [^`|]*)?)`")
LATER = frozenset({"watch", "mcp", "replay", "backtest"})  # named as missing in docs/status.md


def code_blocks(heading: str, language: str) -> list[str]:
    """Return the code blocks of one language under a heading of the page."""
    section = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)


def run_block(shell: Shell, block: str, *, codes: frozenset[int] = frozenset({0})) -> None:
    """Run each command of a block; a pattern like backups/*.dump names files of the shell's folder."""
    for line in block.splitlines():
        program, *words = shlex.split(line, comments=True)
        assert program == "catalyst"
        arguments = [
            str(found)
            for word in words
            for found in (sorted(shell.folder.glob(word)) if "*" in word else [word])
        ]
        completed = shell.run(*arguments)
        assert completed.returncode in codes, line + completed.stdout + completed.stderr
        assert "Traceback" not in completed.stderr, line


def test_backup_commands_of_the_page_run(traded_shell: Shell) -> None:
    """The page's backup restores into a new folder."""
    (traded_shell.folder / "config.yaml").write_text("database:\n  backups: backups\n")
    [block] = code_blocks("Back up and restore", "sh")
    run_block(traded_shell, block)


def known_commands() -> dict[str, set[str]]:
    """Return the options of every command, by its name; the commands of a group have none here."""
    group = typer.main.get_command(app)
    commands = getattr(group, "commands", {})
    return {
        name: {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
        for name, command in commands.items()
    }


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_commands_and_options_that_a_page_names_exist(page: Path) -> None:
    """Each `catalyst NAME --option` of README and docs is a command of this release with that option."""
    commands = known_commands()
    for name, rest in NAMED.findall(page.read_text()):
        if name in LATER:
            continue
        assert name in commands, f"`catalyst {name}`"
        if name in ("config", "alerts"):
            continue
        options = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", rest.partition(" -- ")[0])
        unknown = set(options) - commands[name] - {"--help"}
        assert not unknown, f"`catalyst {name}{rest}`"


def test_commands_to_watch_the_day_run(traded_shell: Shell) -> None:
    """The page's commands of a day print on a traded day; status is not healthy without a daemon."""
    [block] = code_blocks("Watch the day", "sh")
    run_block(traded_shell, block, codes=frozenset({0, 1}))


def test_procedures_name_tests_that_exist() -> None:
    """Each row of the table of procedures names a command or a page, and tests that exist."""
    section = PAGE.read_text().split("## Old command, new command\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (?!old|--)(.+?) \| (.+?) \| (.+?) \|$", section, re.M)
    sources = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    makefile = (ROOT / "Makefile").read_text()
    functions = {
        node.name
        for text in sources
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert len(rows) >= 30
    for old, new, tests in rows:
        named = re.findall(r"`(test_\w+)`", tests)
        files = re.findall(r"`(tests/[\w/.]+)`", tests)
        programs = re.findall(r"`make ([a-z-]+)`", tests)
        assert named or files or programs, (old, new)
        assert all((ROOT / file).exists() for file in files), (old, files)
        assert all(f"\n{program}:" in makefile for program in programs), old
        assert set(named) <= functions, (old, set(named) - functions)


def test_symptoms_name_log_events_of_the_code() -> None:
    """Each log event of the table of symptoms is one that the code writes."""
    named = re.findall(r"^\| log event `(\w+)`", PAGE.read_text(), re.M)
    sources = "\n".join(path.read_text() for path in (ROOT / "catalyst").rglob("*.py"))
    assert named
    assert [event for event in named if f'"{event}"' not in sources] == []
