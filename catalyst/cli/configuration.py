"""`catalyst config`: shows the values in force, checks a file, prints the reference and the JSON schema."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from catalyst.cli.output import print_result
from catalyst.cli.settings import CONFIG_FILE, ConfigOption, JsonOption, read_settings, secrets_file

if TYPE_CHECKING:
    from rich.text import Text

    from catalyst.config.settings import Settings
    from catalyst.config.sources import SourcedValue

app = typer.Typer(help="Show and check the configuration.", no_args_is_help=True)


@app.command()
def show(
    changed: Annotated[bool, typer.Option("--changed", help="Only values that are not the default.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show each key's value in force and where it comes from; secrets are masked."""
    from catalyst.config.sources import DEFAULT, effective_values, variables_in_force

    settings = read_settings(config)
    keys = effective_values(settings)
    if changed:
        keys = {key: found for key, found in keys.items() if found.source != DEFAULT}
    variables = variables_in_force(settings)
    facts = {
        "file": settings.source,
        "fingerprint": settings.config.fingerprint,
        "mode": settings.mode,
        "session_mode": settings.session_mode,
        "keys": keys,
        "variables": variables,
        "notices": settings.notices,
    }
    print_result(facts, as_json, lambda: _value_lines(keys, variables, settings))


@app.command()
def check(
    file: Annotated[
        Path,
        typer.Argument(metavar="[FILE]", help="The configuration file to check (default: ./config.yaml)."),
    ] = CONFIG_FILE,
    as_json: JsonOption = False,
) -> None:
    """Check a file, with .env and the environment, before the daemon reads it; exit 78 when it is not valid."""
    from catalyst.config.loader import load
    from catalyst.config.schema import Config
    from catalyst.daemon.runtime.config_reload import changed_values

    settings = load(file, env_file=secrets_file())
    changes = changed_values(Config(), settings.config)
    facts = {
        "valid": True,
        "mode": settings.mode,
        "session_mode": settings.session_mode,
        "fingerprint": settings.config.fingerprint,
        "changes": changes,
        "notices": settings.notices,
    }
    print_result(facts, as_json, lambda: _check_lines(file, settings, changes))


@app.command()
def reference(
    as_yaml: Annotated[
        bool, typer.Option("--yaml", help="A config.yaml with every key and its default instead.")
    ] = False,
) -> None:
    """Print every key and every environment variable: type, default, meaning."""
    from catalyst.cli import config_pages

    typer.echo(config_pages.render_example() if as_yaml else config_pages.render_page(), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON schema of config.yaml, for editors that complete and check it."""
    from catalyst.cli.config_pages import json_schema

    print_result(json_schema(), True, list)


def _value_lines(
    keys: "dict[str, SourcedValue]", variables: "dict[str, SourcedValue]", settings: "Settings"
) -> "Iterator[str | Text]":
    from rich.text import Text

    from catalyst.config.keys import value_text
    from catalyst.config.sources import DEFAULT

    for name, found in (*keys.items(), *variables.items()):
        value = value_text(found.value)
        style = "dim" if found.source == DEFAULT else "default"
        yield Text(f"{name:<42} {value:<24} {found.source}", style=style)
    yield from settings.notices


def _check_lines(
    file: Path, settings: "Settings", changes: "dict[str, tuple[object, object]]"
) -> Iterator[str]:
    from catalyst.config.keys import value_text

    yield f"{file} is valid: {settings.mode}, {settings.session_mode}; {len(changes)} values are not the default"
    for key, (default, value) in changes.items():
        yield f"  {key}: {value_text(value)} (default {value_text(default)})"
    yield from settings.notices
