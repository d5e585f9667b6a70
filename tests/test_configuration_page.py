"""Pages made from the configuration's models: docs/configuration.md, config.yaml and the JSON schema."""

from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from catalyst.cli import config_pages
from catalyst.config.keys import RETIRED_KEYS, config_keys, environment_variables
from catalyst.config.meanings import KEY_MEANINGS, SECTION_MEANINGS, VARIABLE_MEANINGS
from catalyst.config.schema import Config
from catalyst.config.settings import Environment

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("file", "render"),
    [("docs/configuration.md", config_pages.render_page), ("config.yaml", config_pages.render_example)],
)
def test_configuration_pages_are_made_from_the_models(file: str, render: Any) -> None:
    """docs/configuration.md and config.yaml equal what the models give; `make docs` writes them."""
    assert (ROOT / file).read_text() == render()


def test_every_key_and_variable_has_one_meaning() -> None:
    """Sections, keys and variables of the models have a meaning, and no meaning belongs to none of them."""
    assert set(SECTION_MEANINGS) == set(Config.model_fields)
    assert set(KEY_MEANINGS) == {key.key for key in config_keys()} | RETIRED_KEYS
    assert {name.upper() for name in VARIABLE_MEANINGS} == {
        variable.name for variable in environment_variables()
    }
    assert set(VARIABLE_MEANINGS) == set(Environment.model_fields)
    assert all((KEY_MEANINGS | SECTION_MEANINGS | VARIABLE_MEANINGS).values())


def test_page_names_type_bounds_default_and_time_of_effect() -> None:
    """A row has the type with its bounds, the default, and when a running daemon uses a changed value."""
    page = config_pages.render_page()
    for row in (
        "| `entry_type` | limit or market | `limit` | at once |",
        "| `max_positions` | integer, 1 to 50 | `5` | at once |",
        "| `max_daily_loss` | number, above 0 to 10000000 | `2000` | at once |",
        "| `exchanges` | list | `[NYSE, NASDAQ, ARCA, AMEX]` | next session |",
        "| `feed` | iex, sip or delayed_sip | `iex` | restart |",
        "| `MAX_POSITIONS` | integer |  | `risk.max_positions` |",
        "| `SMTP_PASSWORD` | secret |  |  |",
    ):
        assert row in page, row


@pytest.mark.parametrize(
    ("tree", "fault"),
    [
        ({}, None),
        ({"risk": {"max_positions": 3}, "session": {"mode": "autonomous"}}, None),
        ({"risk": {"max_positons": 3}}, "max_positons"),
        ({"risk": {"max_positions": 0}}, "less than the minimum"),
        ({"broker": {"feed": "free"}}, "free"),
    ],
)
def test_schema_of_editors_agrees_with_the_models(tree: dict[str, Any], fault: str | None) -> None:
    """The JSON schema accepts config.yaml and valid values, and refuses an unknown key and a value out of bounds."""
    validator = jsonschema_rs.Draft202012Validator(config_pages.json_schema())
    assert not list(validator.iter_errors(yaml.safe_load((ROOT / "config.yaml").read_text())))
    faults = [error.message for error in validator.iter_errors(tree)]
    assert (fault is None) == (faults == [])
    assert fault is None or any(fault in message for message in faults)
