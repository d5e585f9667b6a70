"""docs/refusals.md shows the tables of domain/refusals.py, and each of its cells is what the code decides."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from catalyst.broker.outcome import success_body
from catalyst.broker.request import HttpResponse
from catalyst.domain.errors import OrderRejected
from catalyst.domain.protection import Protection
from catalyst.domain.protection_step import (
    MAX_REFUSALS,
    MAX_UNBOOKED_REFUSALS,
    HeldShares,
    ProtectionAction,
    ProtectionRules,
    ProtectionStep,
    Refusal,
    next_protection_step,
)
from catalyst.domain.refusals import (
    CANCEL_ANSWERS,
    EXIT_ANSWERS,
    EXIT_CLASSES,
    KNOWN_REFUSALS,
    OCO_ANSWERS,
    PACES,
    REPLACE_ANSWERS,
    ExitAnswer,
    KnownRefusal,
    OcoAnswer,
    RefusalClass,
    RejectionReason,
    ReplaceAnswer,
    class_of_exit,
    pause_after,
    reason_of,
)
from tests.promises import TESTS

PAGE = (TESTS.parent / "docs" / "refusals.md").read_text()
NOW = datetime(2026, 4, 8, 14, 15, tzinfo=UTC)


def reason_lines() -> list[str]:
    """Return the rows of the table of answers."""
    return [
        f"| `{reason}` | {EXIT_CLASSES[reason]} | {EXIT_ANSWERS[reason]} | {REPLACE_ANSWERS[reason]} |"
        f" {OCO_ANSWERS[reason]} | {CANCEL_ANSWERS[reason]} |"
        for reason in RejectionReason
    ]


def message_lines() -> list[str]:
    """Return the rows of the table of known refusals."""
    return [
        f"| {known.http_status} | {known.code} | {known.message} | `{known.reason}` |"
        for known in KNOWN_REFUSALS
    ]


def pace_lines() -> list[str]:
    """Return the rows of the table of paces."""
    return [
        f"| {of_class} | {pace.first.total_seconds():g} s | {pace.longest.total_seconds():g} s |"
        for of_class, pace in PACES.items()
    ]


def test_refusals_page_shows_every_row_of_the_tables() -> None:
    """The page has the rows of the code, each once, and no other."""
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| reason")]
    rows = [line for line in rows if not line.startswith(("| status", "| class"))]
    assert rows == [*pace_lines(), *reason_lines(), *message_lines()]


@pytest.mark.parametrize("known", KNOWN_REFUSALS, ids=lambda known: known.message)
def test_known_refusal_is_classified_by_its_message(known: KnownRefusal) -> None:
    """Each response of the table becomes a rejection with the reason of the table and the broker's words."""
    body = json.dumps({"code": known.code, "message": known.message}).encode()
    with pytest.raises(OrderRejected) as rejected:
        success_body(HttpResponse(known.http_status, body, {}), mutating=True)
    assert (rejected.value.code, rejected.value.text) == (known.reason, known.message)
    assert reason_of(str(rejected.value)) is known.reason


@pytest.mark.parametrize("reason", RejectionReason)
def test_refused_exit_has_the_pace_of_its_class(reason: RejectionReason) -> None:
    """A lasting or final refusal postpones the exit at once; the pauses double up to the longest of the class."""
    of_class = class_of_exit(f"{reason}: words")
    assert (EXIT_ANSWERS[reason] is ExitAnswer.RETRY) is (of_class is RefusalClass.PASSING)
    assert (REPLACE_ANSWERS[reason] is ReplaceAnswer.POSTPONE) is (of_class is RefusalClass.LASTING)
    pace = PACES[of_class]
    pauses = [pause_after(f"{reason}: words", count) for count in range(1, 12)]
    assert pauses[:2] == [pace.first, pace.first * 2]
    assert pauses[-1] == pace.longest == max(pauses)


def step_after(reason: RejectionReason, count: int, *, may_exit: bool, seconds: float = 1) -> ProtectionStep:
    """Return the step for unprotected shares, `seconds` after the last of `count` refusals of an OCO."""
    refusals = [
        Refusal(f"{reason}: words", NOW - timedelta(seconds=seconds + count - number))
        for number in range(1, count + 1)
    ]
    shares = HeldShares(
        state=Protection.UNPROTECTED, since=NOW - timedelta(minutes=1), exits_working=False, refusals=refusals
    )
    return next_protection_step(shares, ProtectionRules(may_exit=may_exit, time_in_force="gtc"), NOW)


@pytest.mark.parametrize("reason", RejectionReason)
def test_refused_oco_gets_the_answer_of_the_table(reason: RejectionReason) -> None:
    """The OCO is sent again every second; after the refusals of the table, or at once, the shares are exited."""
    match OCO_ANSWERS[reason]:
        case OcoAnswer.EXIT:
            assert step_after(reason, 1, may_exit=True).action is ProtectionAction.EXIT
        case OcoAnswer.DAY_ORDER:
            step = step_after(reason, 1, may_exit=True)
            assert (step.action, step.time_in_force) == (ProtectionAction.PLACE, "day")
        case answer:
            most = MAX_UNBOOKED_REFUSALS if answer is OcoAnswer.RETRY_UNBOOKED else MAX_REFUSALS
            assert step_after(reason, 1, may_exit=True, seconds=0.5).action is ProtectionAction.WAIT
            assert step_after(reason, most - 1, may_exit=True).action is ProtectionAction.PLACE
            assert step_after(reason, most, may_exit=True).action is ProtectionAction.EXIT


@pytest.mark.parametrize("reason", RejectionReason)
def test_refused_oco_is_tried_slowly_while_the_exit_is_postponed(reason: RejectionReason) -> None:
    """Where the exit is refused too, the stop is tried for ever: without the target from the third time on, within a
    minute of the last refusal."""
    step = step_after(reason, 20, may_exit=False, seconds=60)
    is_day_only = OCO_ANSWERS[reason] is OcoAnswer.DAY_ORDER
    assert step.action is ProtectionAction.PLACE
    assert (step.order_class, step.time_in_force) == (("oco", "day") if is_day_only else ("simple", "gtc"))
    assert step_after(reason, 20, may_exit=False, seconds=1).action is ProtectionAction.WAIT
