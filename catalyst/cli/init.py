"""`catalyst init`: writes a first config.yaml and .env, from questions on a terminal or from options."""

import re
import shutil
import sys
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from pydantic import TypeAdapter, ValidationError

from catalyst.cli.install_service import ENABLED
from catalyst.config.env_file import read_env_file
from catalyst.config.from_v6 import OldConfiguration, read_v6
from catalyst.config.keys import ConfigKey, config_keys
from catalyst.config.loader import load
from catalyst.config.schema import Config, Mode
from catalyst.config.settings import Environment, Settings
from catalyst.domain.errors import ConfigInvalid, UserError

SECRETS_MODE: Final = 0o600
CONFIG_MODE: Final = 0o644
CONFIG_HEADER: Final = """\
# Catalyst's configuration: the keys that most people change. Every other key has its default;
# `catalyst config reference` lists them all. Secrets are in .env beside this file.
# A running daemon reads this file again within a minute; `catalyst config check FILE` tries a file before that.
"""
ENV_HEADER: Final = "# Secrets and overrides of Catalyst, readable by its owner only (mode 0600).\n"

# The keys of the written file, in the order of the models.
WRITTEN_KEYS: Final = (
    "trading.mode", "broker.feed", "session.mode", "features.email_alerts", "risk.max_daily_loss",
    "risk.max_positions", "risk.max_position_size", "risk.risk_per_trade_pct",
)  # fmt: skip
_PLAIN: Final = re.compile(r"[\w./:@%+=,?&~-]*", re.ASCII)


@dataclass
class Answers:
    """The values of keys that were chosen, and the variables of .env."""

    values: dict[str, object] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)


def init(
    mode: Annotated[
        Mode | None, typer.Option(help="sim: a local exchange; paper: Alpaca's paper account.")
    ] = None,
    max_daily_loss: Annotated[str | None, typer.Option(metavar="DOLLARS")] = None,
    max_position_size: Annotated[str | None, typer.Option(metavar="DOLLARS")] = None,
    max_positions: Annotated[str | None, typer.Option(metavar="COUNT")] = None,
    secrets: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A file with NAME=value lines for .env; /dev/stdin reads them from a pipe."
        ),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where config.yaml and .env are written.")] = Path(),
    owner: Annotated[
        str | None, typer.Option(help="The user who gets .env; only root may give it away.")
    ] = None,
    from_v6: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Take .env and the two YAML files of the earlier Catalyst from there."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files without asking.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing: options and defaults decide.")
    ] = False,
) -> None:
    """Write a first config.yaml and .env: asks on a terminal, and what it writes is valid."""
    if mode is Mode.LIVE:
        raise UserError("init writes no live configuration: begin with paper, and read docs/configuration.md")
    asks = sys.stdin.isatty() and not yes and from_v6 is None
    old = OldConfiguration() if from_v6 is None else read_v6(from_v6)
    given = {
        "max_daily_loss": max_daily_loss,
        "max_position_size": max_position_size,
        "max_positions": max_positions,
    }
    chosen = {f"risk.{name}": value for name, value in given.items() if value is not None}
    answers = Answers(
        old.values | {key: _checked_value(key, value) for key, value in chosen.items()}, old.variables
    )
    if mode is not None:
        answers.values["trading.mode"] = mode
    if secrets is not None:
        for variable in read_env_file(secrets, Environment.model_fields):
            is_ours = variable.key in Environment.model_fields
            answers.variables[variable.name.upper() if is_ours else variable.name] = variable.value
    targets = [
        path for path in (folder / "config.yaml", folder / ".env") if _may_write(path, asks=asks, force=force)
    ]
    if asks:
        _ask_questions(answers, {path.name for path in targets})
    if "trading.mode" not in answers.values:
        answers.values["trading.mode"] = Mode.PAPER if "ALPACA_API_KEY" in answers.variables else Mode.SIM
    settings = _write_files(folder, targets, answers, owner)
    for note in old.notes:
        typer.echo(note)
    _print_next_steps(settings, targets, is_service=owner is not None)


def _ask_questions(answers: Answers, files: AbstractSet[str]) -> None:
    """Ask for everything in the files to write that no option named."""
    if "config.yaml" in files:
        _ask_values(answers)
    if ".env" not in files:
        return
    if answers.values.get("trading.mode") is not Mode.SIM:
        for name in ("ALPACA_API_KEY", "ALPACA_SECRET_KEY"):
            _ask_secret(answers, name, f"{name} of the paper account (not shown)")
    _ask_secret(answers, "DATABASE_URL", "DATABASE_URL (not shown; empty: the embedded PostgreSQL)")
    if "ALERT_EMAIL_CRITICAL" not in answers.variables and (
        address := typer.prompt("Mail address of alerts (empty: none)", default="", show_default=False)
    ):
        _ask_mail_server(answers, address)


def _ask_values(answers: Answers) -> None:
    if "trading.mode" not in answers.values:
        typer.echo("sim: a local exchange, without an account; paper: Alpaca's paper account, without money")
        answers.values["trading.mode"] = _ask_value("Trade on sim or paper", "trading.mode", Mode.PAPER)
    for key, question in (
        ("risk.max_daily_loss", "Largest loss of a day in dollars"),
        ("risk.max_position_size", "Largest position in dollars"),
        ("risk.max_positions", "Most open positions"),
    ):
        if key not in answers.values:
            answers.values[key] = _ask_value(question, key, _default_of(key))


def _ask_mail_server(answers: Answers, address: str) -> None:
    variables = answers.variables
    variables["ALERT_EMAIL_CRITICAL"] = variables["ALERT_EMAIL_WARNING"] = address
    variables["SMTP_HOST"] = typer.prompt("Mail server")
    port = typer.prompt("Port of the mail server (many providers block 25)", default=587, type=int)
    variables["SMTP_PORT"] = str(port)
    variables["SMTP_FROM"] = typer.prompt("Sender of the alerts", default=address)
    login = typer.prompt("Login at the mail server", default=address)
    _ask_secret(
        answers,
        "SMTP_PASSWORD",
        "Password at the mail server, often an app password (not shown; empty: no login)",
    )
    if "SMTP_PASSWORD" in variables:
        variables["SMTP_USERNAME"] = login


def _ask_secret(answers: Answers, name: str, question: str) -> None:
    """Ask for a secret that is not known yet, until a start would accept it; an empty answer sets nothing."""
    if name in answers.variables:
        return
    while answer := typer.prompt(question, default="", show_default=False, hide_input=True).strip():
        fault = _fault_of(name, answer)
        if fault is None:
            answers.variables[name] = answer
            return
        typer.echo(f"{name}: {fault}", err=True)


def _fault_of(name: str, answer: str) -> str | None:
    """Return why a start would not accept the value of a variable, without the value; None when it would."""
    accepted: Any = Environment.model_fields[name.lower()].annotation
    try:
        TypeAdapter(accepted).validate_python(answer)
    except ValidationError as error:
        (fault, *_) = error.errors(include_url=False, include_input=False)
        return str(fault["msg"]).removeprefix("Value error, ")
    return None


def _ask_value(question: str, key: str, default: object) -> object:
    """Ask for the value of a key until the configuration accepts it."""
    while True:
        answer = typer.prompt(question, default=str(default))
        try:
            return _checked_value(key, answer)
        except ConfigInvalid as error:
            typer.echo(str(error), err=True)


def _checked_value(key: str, answer: str) -> object:
    """Return the answer as the configuration reads it. Raises ConfigInvalid for a wrong one."""
    section, name = key.split(".")
    if key == "trading.mode" and answer not in ("sim", "paper"):
        raise ConfigInvalid("answer sim or paper")
    try:
        config = Config.model_validate({section: {name: answer}})
    except ValidationError as error:
        faults = [fault["msg"].removeprefix("Value error, ") for fault in error.errors(include_url=False)]
        raise ConfigInvalid(f"{key}: {'; '.join(faults)}") from None
    value: object = getattr(getattr(config, section), name)
    return value


def _default_of(key: str) -> object:
    section, name = key.split(".")
    value = getattr(getattr(Config(), section), name)
    return f"{value.normalize():f}" if isinstance(value, Decimal) else value


def _may_write(path: Path, *, asks: bool, force: bool) -> bool:
    """Return true when the file is new or may be replaced. Raises UserError when nobody can be asked."""
    if not path.exists() or force:
        return True
    if asks:
        return typer.confirm(f"{path} exists: replace it?", default=False)
    raise UserError(f"{path} exists: move it away, or replace it with --force")


def _write_files(folder: Path, targets: list[Path], answers: Answers, owner: str | None) -> Settings:
    """Write the files in one step each, after the configuration in them was read back. Raises ConfigInvalid."""
    texts = {"config.yaml": _config_text(answers), ".env": _env_text(answers.variables)}
    with ExitStack() as on_failure:
        partials = {}
        for target in targets:
            partial = target.with_name(f"{target.name}.new")
            on_failure.callback(partial.unlink, missing_ok=True)
            partials[target.name] = partial
            _write_partial(
                partial, texts[target.name], CONFIG_MODE if target.name == "config.yaml" else SECRETS_MODE
            )
            if owner is not None and target.name == ".env":
                _give_to(partial, owner)
        env_file = partials.get(".env", folder / ".env")
        if ".env" in partials:
            _require_same_values(env_file, answers.variables)
        settings = load(partials.get("config.yaml", folder / "config.yaml"), env_file=env_file)
        for target in targets:
            partials[target.name].replace(target)
    return settings


def _write_partial(path: Path, text: str, mode: int) -> None:
    """Write a file that nobody else can read before it has its mode. Raises UserError."""
    try:
        path.unlink(missing_ok=True)
        path.touch(mode=SECRETS_MODE)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None


def _give_to(path: Path, owner: str) -> None:
    try:
        shutil.chown(path, owner, owner)
    except (OSError, LookupError) as error:
        raise UserError(f"{path} cannot be given to {owner}: {error}") from None


def _config_text(answers: Answers) -> str:
    from catalyst.cli.config_pages import commented_line

    lines = [CONFIG_HEADER]
    mails = {"SMTP_HOST", "ALERT_EMAIL_CRITICAL"} <= answers.variables.keys()
    wanted = bool(answers.values.get("features.email_alerts", True))
    values = answers.values | {"features.email_alerts": mails and wanted}
    chosen = (key for key in config_keys() if key.key in WRITTEN_KEYS or key.key in answers.values)
    for section, keys in groupby(chosen, _section_of):
        lines += [
            f"{section}:",
            *(commented_line(key.name, values.get(key.key, key.default), key) for key in keys),
            "",
        ]
    return "\n".join(lines[:-1]) + "\n"


def _section_of(key: ConfigKey) -> str:
    return key.section


def _env_text(variables: dict[str, str]) -> str:
    return ENV_HEADER + "".join(f"{name}={_quoted(name, value)}\n" for name, value in variables.items())


def _quoted(name: str, value: str) -> str:
    """Return the value as both Catalyst and systemd read it. Raises UserError when there is no such spelling."""
    if _PLAIN.fullmatch(value):
        return value
    if any(character in value for character in "'\\\r\n$"):
        raise UserError(
            f"{name} holds a quote, a backslash, a $ or a line end, which .env and systemd read differently: store it "
            "as a file of systemd's credentials (docs/install.md)"
        )
    return f"'{value}'"


def _require_same_values(path: Path, variables: dict[str, str]) -> None:
    """Read the written .env and compare it with what was meant."""
    found = {variable.name: variable.value for variable in read_env_file(path, Environment.model_fields)}
    assert found == variables, "the written .env reads differently"


def _print_next_steps(settings: Settings, targets: Iterable[Path], *, is_service: bool) -> None:
    for target in targets:
        shown = target.resolve() if is_service else target  # the wrapper has changed the folder
        typer.echo(f"written: {shown} (mode {target.stat().st_mode & 0o777:04o})")
    for notice in settings.notices:
        typer.echo(notice)
    exchange = "`catalyst sim` in a second terminal, " if settings.mode is Mode.SIM else ""
    start = f"systemctl enable --now {' '.join(ENABLED)}" if is_service else "catalyst run"
    typer.echo(f"next: {exchange}`catalyst check`, then `{start}`")
