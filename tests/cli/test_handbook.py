"""docs/handbook.md: its commands run, every command that a page names exists, and every procedure has its test."""

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
        options = re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest.partition(" -- ")[0])
        unknown = set(options) - commands[name] - {"--help"}
        assert not unknown, f"`catalyst {name}{rest}`"
