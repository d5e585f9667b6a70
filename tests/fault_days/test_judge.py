"""The judge of fault days finds what is wrong, and the plans draw everything."""

from collections.abc import Callable
from copy import deepcopy
from datetime import timedelta
from pathlib import Path
from typing import Any

from catalyst.domain.session import NEW_YORK
from tests.fault_days.day import DayRecord
from tests.fault_days.judge import judge
from tests.fault_days.page import render_page, render_verdict
from tests.fault_days.plan import EXCLUDED_KINDS, FAULT_KINDS, IncidentKind, draw_plan
from tests.simulator.manual_feed import at
from tests.stories.scenario import Scenario, open_scenario


async def read_record(scenario: Scenario, exit_code: int) -> DayRecord:
    """Return what a fault day leaves for the judge, from a scenario."""
    record = DayRecord(exit_code=exit_code)
    record.logs = await scenario.admin("logs")
    record.audit = await scenario.admin("audit")
    record.unprotected = await scenario.admin("unprotected")
    return record


def hold_shares(record: DayRecord) -> None:
    record.audit["positions"] = {"AAPL": "20"}


def add_execution(record: DayRecord) -> None:
    record.logs["executions"].append({**record.logs["executions"][0], "cum_qty": "21", "qty": "1"})


def extend_gap(record: DayRecord) -> None:
    gap = record.unprotected["AAPL"]["gaps"][0]
    gap["ended"] = (at("15:55").astimezone(NEW_YORK)).isoformat()


def repeat_order(record: DayRecord) -> None:
    record.logs["orders"].append(dict(record.logs["orders"][0]))


def fail_exit(record: DayRecord) -> None:
    record.exit_code = 2


PLANTED: dict[Callable[[DayRecord], None], str] = {
    hold_shares: "exit code 0, but the account is not flat or the books differ",
    add_execution: "proven flat, but the account is not flat or the books differ",
    extend_gap: "at the exchange",
    repeat_order: "was accepted 2 times",
    fail_exit: "exit code 2, but the last proof is proven: True",
}


async def test_judge_finds_each_planted_difference(database: str) -> None:
    """A day with one trade that ends flat is green; each difference planted into what the exchange shows is a
    violation. The page shows both."""
    async with open_scenario(database, now=at("15:48")) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=5)
        exit_code = await scenario.wait_for_exit(step=30)
        folder = Path(scenario.settings.proofs_dir).parent / "share"
        record = await read_record(scenario, int(exit_code))
        now = scenario.clock.now() + timedelta(minutes=1)
        (folder / "share").mkdir(parents=True)
        (folder / "share" / "proofs").symlink_to(scenario.settings.proofs_dir)
        green = await judge(1, record, database, folder, now)
        assert green.violations == []
        assert green.fills == 2
        red = []
        for plant, text in PLANTED.items():
            changed = deepcopy(record)
            plant(changed)
            verdict = await judge(2, changed, database, folder, now)
            assert any(text in violation for violation in verdict.violations), (text, verdict.violations)
            red.append(verdict)
        page = render_page([green, *red], "abc")
        assert "1 of 6 days green" in page
        assert "never fired: hang" in page
        assert "RED" in render_verdict(red[0])


def test_plans_draw_every_kind() -> None:
    """Forty seeds draw every fault kind and every incident, with and without a request; a seed draws the same plan."""
    plans = [draw_plan(seed) for seed in range(40)]
    assert {kind for plan in plans for kind in plan.rates} == set(FAULT_KINDS)
    assert not set(FAULT_KINDS) & EXCLUDED_KINDS
    incidents: list[Any] = [incident for plan in plans for incident in plan.incidents]
    assert {incident.kind for incident in incidents} == set(IncidentKind)
    assert {incident.request is None for incident in incidents} == {True, False}
    assert draw_plan(7) == draw_plan(7)
    assert len({str(plan) for plan in plans}) == len(plans)
