"""Secrets: no spelling of a secret leaves the process, on any way out."""

import base64
import html
import io
import json
import logging
import tempfile
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote, quote_plus

import pytest
import structlog
from cli.shell import Shell
from hypothesis import given
from hypothesis import strategies as st

from catalyst.cli import logs
from catalyst.cli.masked_output import MaskedStream
from catalyst.cli.output import print_result
from catalyst.clock import ManualClock
from catalyst.config.loader import load
from catalyst.daemon.outage.spool import Spool, SpoolEntryKind
from catalyst.domain.errors import BrokerUnavailable, OrderRejected
from catalyst.domain.secret_mask import MASK, add_secrets, forget_secrets, mask_text, url_secrets
from catalyst.flat_proof_files import FlatProofFiles
from catalyst.store import alerts
from catalyst.store.pool import Store, encode_json, storable_text

NOW = datetime(2026, 4, 8, 14, 15, tzinfo=UTC)

SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "repr": lambda text: repr(text)[1:-1],
    "bytes": lambda text: repr(text.encode())[2:-1],
    "json": lambda text: json.dumps(text)[1:-1],
    "json as text": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "url": lambda text: quote(text, safe=""),
    "form": quote_plus,
    "html": html.escape,
    "basic auth": lambda text: base64.b64encode(f"user:{text}".encode()).decode(),
    "base64": lambda text: base64.urlsafe_b64encode(f"key {text} end".encode()).decode(),
}

secrets = st.text(
    st.one_of(
        st.characters(codec="utf-8", exclude_categories=["Cs"]), st.sampled_from("\r\n\t \"'\\/#?[]@%&+.-_")
    ),
    min_size=8,
    max_size=40,
).filter(lambda text: len(set(text)) > 5 and text.strip() == text and MASK not in text)


@pytest.fixture(autouse=True)
def forgotten_secrets() -> Iterator[None]:
    """Forget the secrets after each test: the other tests of the process have none."""
    yield
    forget_secrets()


def fail_with(text: str) -> None:
    """Fail as a library does whose error quotes what it was given."""
    raise ValueError(text)


def assert_hidden(secret: str, text: str) -> None:
    """Check that the text shows the mask and no spelling of the secret."""
    assert MASK in text
    for spell in SPELLINGS.values():
        assert spell(secret) not in text


@given(secrets, st.sampled_from(sorted(SPELLINGS)), st.sampled_from(sorted(SPELLINGS)))
def test_mask_covers_every_spelling_of_a_secret(secret: str, inner: str, outer: str):
    """A secret is masked as it is, escaped, encoded, and encoded again by another library."""
    forget_secrets()
    add_secrets([secret])
    shown = SPELLINGS[inner](secret)
    if "base64" not in inner and inner != "basic auth":
        shown = SPELLINGS[outer](shown) if outer not in ("basic auth", "base64") else shown
    assert_hidden(secret, mask_text(f"before ({shown}) after"))
    assert mask_text("an ordinary line of the log") == "an ordinary line of the log"


@pytest.mark.parametrize("part", ["x", "\\", "%25", "/+"])
def test_mask_of_a_long_text_takes_linear_time(part: str):
    """A megabyte of one character that occurs in the spellings of a secret is masked; a quadratic search hangs."""
    add_secrets(["S3cretS3cretS3cret", "\x7f\\\\xx ?>?>?>?> x", "xx/xx/xx/xx"])
    text = part * (1_000_000 // len(part))
    assert mask_text(f"{text} S3cretS3cretS3cret {text}") == f"{text} {MASK} {text}"
    middle = base64.b64encode(b"xxxS3cretS3cretS3cretxxx").decode()
    assert mask_text(f"{text} {middle}").endswith(f" {MASK}")


@given(secrets, st.sampled_from(sorted(SPELLINGS)))
def test_no_way_out_shows_a_secret(secret: str, spelling: str):
    """Log lines, tracebacks, stderr, rows, error texts, proofs and spool entries mask the secret; facts without one
    stay as they are."""
    forget_secrets()
    add_secrets([secret])
    shown = f"header {SPELLINGS[spelling](secret)} refused"
    outputs = {
        "jsonb": encode_json({"error": shown, "deep": [{"facts": (shown,)}], "quantity": 5}).decode(),
        "text": storable_text(shown, 60),
        "broker error": str(BrokerUnavailable(shown)),
        "rejection": OrderRejected("PRICE_RULE", shown).text,
    }
    screen = io.StringIO()
    stderr = MaskedStream(screen)
    try:
        fail_with(shown)
    except ValueError as error:
        traceback.print_exc(file=stderr)
        outputs["log"] = json.dumps(
            logs.mask_event(None, "", {"event": "failed", "error": error, "facts": {"list": [shown]}}),
            default=str,
        )
    outputs["stderr"] = screen.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        proof = FlatProofFiles(Path(folder), "account").write(NOW, {"missing": shown})
        assert proof is not None
        outputs["proof"] = proof.read_text()
        spool = Spool(Path(folder), "account")
        assert spool.write(SpoolEntryKind.LATCH, NOW, reason=shown)
        outputs["spool"] = spool.path.read_text()
        assert len(spool.read().entries) == 1
    for output in outputs.values():
        assert_hidden(secret, output)


def test_mask_shows_the_address_and_hides_the_password_of_a_url():
    """An unknown URL with a password is masked too; host and database stay readable."""
    assert mask_text("postgresql://cat:hunter2@db:5432/books") == "postgresql://cat:***@db:5432/books"
    assert "Sup3rS3cret" in url_secrets("postgresql://cat:12/Sup3rS3cret@127.0.0.1:1/db")
    add_secrets(url_secrets("postgresql://cat:p%2Fq%23r%20s@db/books"))
    assert mask_text("FATAL: password p/q#r s refused (p%2Fq%23r%20s)") == "FATAL: password *** refused (***)"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "tgram://123456789:AAE-tok3nTok3n/99887766",
            "POST https://api.telegram.org/bot123456789:AAE-tok3nTok3n/sendMessage",
        ),
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", "https://hooks.slack.com/T1JJ3T3L2/x"),
        ("jsons://reporter:s3cr3t%21pw@alerts-host/hook-7f3a9c", "login reporter s3cr3t!pw at alerts-host"),
        ("jsons://alerts.example.com/a?token=t0k3nt0k3n", "Max retries: /a?token=t0k3nt0k3n"),
    ],
)
def test_mask_hides_the_parts_of_a_messenger_s_url(url: str, shown: str, monkeypatch: pytest.MonkeyPatch):
    """User, password, host and tokens of an alert URL are hidden, also in the address that its library calls."""
    monkeypatch.setenv("ALERT_URL_CRITICAL", f"json://localhost:8080/,{url}")
    load()
    assert url.partition("://")[2] not in mask_text(f"cannot add {url}")
    masked = mask_text(shown)
    for part in ("AAE-tok3nTok3n", "T1JJ3T3L2", "reporter", "s3cr3t", "alerts-host", "t0k3nt0k3n"):
        assert part not in masked
    assert MASK in masked
    assert mask_text("connect to http://localhost:8080/v2") == "connect to http://localhost:8080/v2"


def test_mask_changes_no_key_and_no_field_that_the_daemon_reads_back(tmp_path: Path):
    """A password that is a common word, and a number, stay in keys, paths, names, orders and the spool's facts."""
    add_secrets(url_secrets("postgresql://catalyst:catalyst@db/catalyst"))
    add_secrets(["purpose", "flatten", "123456"])
    path = "/var/lib/catalyst/flatten/123456.json"
    assert mask_text(f"wrote {path} with catalyst run") == f"wrote {path} with catalyst run"
    assert mask_text("password flatten refused") == "password *** refused"
    order = {
        "client_order_id": "catalyst-123456-flatten",
        "symbol": "AAPL",
        "quantity": "123456",
        "purpose": "flatten",
    }
    facts = {**order, "reason": "refused 123456"}
    encoded = json.loads(encode_json({**facts, "shares": Decimal(123456), "count": 123456})[1:])
    assert encoded == {**order, "reason": "refused ***", "shares": "123456", "count": 123456}
    spool = Spool(tmp_path, "account")
    assert spool.write(SpoolEntryKind.EXIT_ORDER, NOW, **facts)
    (entry,) = spool.read().entries
    assert entry.facts == {**order, "reason": "refused ***"}


def test_json_on_stdout_stays_json_with_a_secret_number(monkeypatch: pytest.MonkeyPatch):
    """The values of --json are masked before they become text; an unknown URL's mask ends at its text."""
    add_secrets(["123456"])
    screen = io.StringIO()
    monkeypatch.setattr("sys.stdout", MaskedStream(screen))
    facts = {
        "shares": 123456,
        "detail": "key 123456",
        "url": "http://a:b",
        "mail": "x@y",
        "list": ["c:d", "e@f"],
    }
    print_result(facts, True, list)
    assert json.loads(screen.getvalue()) == {**facts, "detail": "key ***"}
    line = json.dumps(facts | {"detail": ""}).replace("123456", "1")
    assert mask_text(line) == line


def test_mask_hides_the_first_part_of_a_secret_in_a_cut_text():
    """A text that was cut in the middle of a secret does not show the part before the cut."""
    add_secrets(["S3cretS3cretS3cret"])
    assert mask_text("header S3cretS3cre …") == "header *** …"


def test_log_masks_library_events_and_tracebacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Events of the standard library's loggers, their arguments and tracebacks are masked like our own."""
    monkeypatch.setenv("ALPACA_API_KEY", "PKCANARY7Q2W9E4R5T6Y")
    monkeypatch.setenv("ALPACA_SECRET_KEY", "canary/8uJ3kLm9Zx2Cv5Bn7Qw1Er4Ty6Ui")
    handlers, level, before = logging.root.handlers[:], logging.root.level, structlog.get_config()
    try:
        logs.configure(load(), ManualClock(NOW))
        try:
            fail_with("key PKCANARY7Q2W9E4R5T6Y")
        except ValueError:
            logging.getLogger("library").exception("refused %r", b"canary/8uJ3kLm9Zx2Cv5Bn7Qw1Er4Ty6Ui")
            structlog.get_logger().exception(
                "refused", settings=MappingProxyType({"k": "PKCANARY7Q2W9E4R5T6Y"})
            )
    finally:
        structlog.configure(**before)  # the defaults render a long error text for minutes
        logging.root.handlers[:] = handlers
        logging.root.setLevel(level)
    output = capsys.readouterr().out
    assert output.count("ValueError: key ***") == 2
    assert "canary" not in output.lower()


async def test_alert_row_shows_no_secret(store: Store):
    """Message and facts of an alert are masked in the row."""
    add_secrets(["S3cret S3cret\tS3cret"])
    shown = repr("S3cret S3cret\tS3cret")
    async with store.tx("alert") as conn:
        await alerts.raise_alert(conn, "EXIT_SLOW", shown, facts={"error": shown}, at=NOW)
        (alert,) = await alerts.recent(conn)
    assert (alert.message, alert.facts) == ("'***'", {"error": "'***'"})


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        (
            {"ALPACA_API_KEY": "PK1", "ALPACA_SECRET_KEY": "S3cretS3cretS3cret\r"},
            "ALPACA_SECRET_KEY: it holds a line end",
        ),
        (
            {"DATABASE_URL": "postgresql://cat:12/Sup3rS3cret@127.0.0.1:1/db"},
            "DATABASE_URL: percent-encode the password",
        ),
        (
            {"DATABASE_URL": "postgresql://cat:Sup3rS3cret@127.0.0.1:abc/db"},
            "DATABASE_URL: the port is not a number",
        ),
    ],
)
def test_commands_refuse_a_wrong_secret_in_one_sentence(
    shell: Shell, variables: dict[str, str], expected: str
):
    """`run` exits with 78 and one sentence, `check` shows it as its result; nothing of the secret is shown."""
    shell.settings = variables
    message = shell.error_output("run", exit_code=78)
    (result,) = shell.read_json("check", exit_code=1)["checks"]
    for text in (message, result["detail"]):
        assert expected in text
        assert "cret" not in text


def test_commands_print_on_a_terminal_without_utf8(shell: Shell):
    """A character that the terminal's encoding lacks becomes a question mark, without a traceback."""
    for encoding in ("latin-1", "ascii"):
        completed = shell.run("check", PYTHONIOENCODING=encoding, DATABASE_URL="postgresql://h:0/d")
        assert completed.returncode == 1, completed.stderr
        assert "Traceback" not in completed.stderr
        assert "  ? correct it" in completed.stdout


def test_traceback_of_a_bug_shows_no_secret(shell: Shell):
    """The traceback of an error that no command expects is masked on stderr."""
    (shell.folder / "bug.py").write_text(
        "import sys; from catalyst.cli import app, preflight\n"
        "from catalyst.domain.secret_mask import add_secrets\n"
        "def broken(config):\n"
        "    add_secrets(['S3cretS3cretS3cret'])\n"
        "    raise ValueError('S3cretS3cretS3cret')\n"
        "preflight.read_settings = broken; sys.argv = ['catalyst', 'check']; app.main()\n"
    )
    completed = shell.run_python("bug.py")
    assert completed.returncode == 1
    assert "ValueError: ***" in completed.stderr
    assert "S3cretS3cret" not in completed.stderr.replace("raise ValueError('S3cretS3cretS3cret')", "")
