"""Pages made from the configuration's models: docs/configuration.md, config.yaml and the JSON schema of editors.

`make docs` writes the first two; a test fails when one differs from the models.
"""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from catalyst.config.keys import ConfigKey, config_keys, environment_variables, value_text
from catalyst.config.meanings import KEY_MEANINGS, SECTION_MEANINGS
from catalyst.config.schema import Config

SCHEMA_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_COMMENT_COLUMN: Final = 32
_LINE_WIDTH: Final = 118

_YAML_HEADER: Final = """\
# Catalyst's configuration. Every key is here with its default: delete the keys that you do not change.
# Made from the models by `make docs`; docs/configuration.md has types, bounds and environment variables.
# The environment overrides this file (MAX_DAILY_LOSS, LOG_LEVEL, ...). Secrets belong in the environment or in .env
# (mode 0600), never here: ALPACA_API_KEY, ALPACA_SECRET_KEY, DATABASE_URL. `catalyst check` shows what is wrong.
# A running daemon reads this file again within a minute, and at once on SIGHUP. Valid changes apply at once.
{waiting}
# An invalid file changes nothing and raises an alert.
# Numbers are plain decimal digits: no 0500, 1_500, 1:30, yes. A key of the earlier Catalyst's files is refused with its
# new name, and so are values that contradict each other.
# RISK_HOT_RELOAD=false in the environment keeps these sections until a restart: risk, daily_limits, sector_limits,
# correlation, positions, emergency.
# TRADING_HOT_RELOAD=false keeps all other sections.
# Amounts are in dollars, times are New York time; the comment of a percentage names what it is a percentage of.
"""

_PAGE_HEADER: Final = """\
# Configuration

Made from the models by `make docs` (`catalyst config reference` prints it); a test fails when this page differs from \
them.

| you want | command |
|---|---|
| a first `config.yaml` and `.env` | `catalyst init` |
| each value in force and where it comes from | `catalyst config show` |
| to try a file before the daemon reads it | `catalyst config check FILE` |
| an editor that knows the keys | `catalyst config schema > config.schema.json`, and `# yaml-language-server: \
$schema=config.schema.json` as the first line of `config.yaml` |

Values come from, strongest first: the environment, `.env` in the working folder, systemd's credentials (files of \
`$CREDENTIALS_DIRECTORY` named like the variables), `config.yaml` in the working folder (or `--config FILE`), the \
default. An unknown key is refused with the nearest known one. [config.yaml](../config.yaml) has every key with its \
default.

*applies*: when a running daemon uses a changed value. It reads the file again within a minute, and at once on SIGHUP.

## Keys of config.yaml
"""

_VARIABLES_HEADER: Final = """
## Environment variables

Names are found in upper and lower case; an empty value counts as unset. A variable that stands for a key has the \
key's bounds, and its value keeps the file's from being used, also after a reload. Secrets are masked in everything \
that Catalyst writes, and belong into `.env` (mode 0600) or into systemd's credentials, not into `config.yaml`.
"""


def render_page() -> str:
    """Return docs/configuration.md."""
    lines = [_PAGE_HEADER]
    for section, keys in groupby(config_keys(), attrgetter("section")):
        lines += [f"### {section}", "", SECTION_MEANINGS[section], ""]
        lines += ["| key | type | default | applies | meaning |", "|---|---|---|---|---|"]
        lines += [_key_row(key) for key in keys]
        lines.append("")
    lines[-1:] = [
        _VARIABLES_HEADER,
        "| variable | type | default | stands for | meaning |",
        "|---|---|---|---|---|",
    ]
    for variable in environment_variables():
        kind = "secret" if variable.secret else variable.type
        default = "" if variable.default is None else f"`{value_text(variable.default)}`"
        key = "" if variable.overrides is None else f"`{variable.overrides}`"
        lines.append(_row(f"`{variable.name}`", kind, default, key, variable.meaning))
    return "\n".join(lines) + "\n"


def _key_row(key: ConfigKey) -> str:
    kind = f"{key.type}, {key.bounds}" if key.bounds else key.type
    return _row(f"`{key.name}`", kind, f"`{value_text(key.default)}`", _applies(key.key), key.meaning)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _applies(key: str) -> str:
    """Return when a running daemon uses a changed value of this key."""
    from catalyst.daemon.runtime.config_reload import NEXT_SESSION_KEYS, START_ONLY_KEYS

    section = key.partition(".")[0]
    if section in START_ONLY_KEYS or key in START_ONLY_KEYS:
        return "restart"
    return "next session" if section in NEXT_SESSION_KEYS or key in NEXT_SESSION_KEYS else "at once"


def render_example() -> str:
    """Return config.yaml with every key, its default and its meaning."""
    lines = [_YAML_HEADER.format(waiting=_describe_waiting_keys())]
    for section, keys in groupby(config_keys(), attrgetter("section")):
        lines += [f"{section}:", *_lines_of(list(keys)), ""]
    return "\n".join(lines[:-1]) + "\n"


def _lines_of(keys: Sequence[ConfigKey]) -> Iterator[str]:
    for key in keys:
        yield commented_line(key.name, key.default, key)


def commented_line(name: str, value: object, key: ConfigKey) -> str:
    """Return a line of config.yaml with the key's choices and meaning as its comment, on several lines when long."""
    comment = "; ".join(part for part in (" | ".join(key.choices), key.meaning) if part)
    setting = f"  {name}: {value_text(value)}"
    column = max(_COMMENT_COLUMN, len(setting) + 2)
    first, *others = textwrap.wrap(comment, _LINE_WIDTH - _COMMENT_COLUMN - 2)
    return "\n".join(
        [f"{setting:<{column}}# {first}", *(f"{'':<{_COMMENT_COLUMN}}# {line}" for line in others)]
    )


def _describe_waiting_keys() -> str:
    """Return the sentences about the keys that do not apply at once, as comments."""
    from catalyst.daemon.runtime.config_reload import NEXT_SESSION_KEYS, START_ONLY_KEYS

    shown = [key for key in START_ONLY_KEYS if key in KEY_MEANINGS or key in SECTION_MEANINGS]
    shown = [key for key in shown if not KEY_MEANINGS.get(key, "").startswith("retired")]
    sentences = (
        f"These wait for a restart, and the daemon reports it: {', '.join(shown)}.",
        f"These apply from the next session on: {', '.join(NEXT_SESSION_KEYS)}.",
    )
    return "\n".join(
        f"# {line}" for sentence in sentences for line in textwrap.wrap(sentence, _LINE_WIDTH - 2)
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of config.yaml with every meaning, for editors."""
    schema = Config.model_json_schema()
    for section, info in Config.model_fields.items():
        definition = schema["$defs"][
            info.annotation.__name__ if isinstance(info.annotation, type) else section
        ]
        definition["description"] = SECTION_MEANINGS[section]
        for name, rules in definition["properties"].items():
            rules["description"] = KEY_MEANINGS[f"{section}.{name}"]
            rules.pop("title", None)
    schema["description"] = "Configuration of Catalyst."
    return {"$schema": SCHEMA_DIALECT, **schema}
