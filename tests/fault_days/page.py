"""Page of the fault days, and the lines of one day on the terminal."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Final

from tests.crash.matrix import quantile
from tests.fault_days.day import HELD_SPEED, INCIDENT_SPEED, SPEED
from tests.fault_days.judge import Verdict
from tests.fault_days.plan import FAULT_KINDS, RARE_RATES, RATES, IncidentKind

PAGE: Final = Path(__file__).parents[2] / "docs" / "fault-days.md"


def render_verdict(verdict: Verdict) -> str:
    """Render one day for the terminal."""
    exchange = [seconds for _, _, seconds in verdict.gaps]
    head = (
        f"{'green' if verdict.passed else 'RED'}  seed {verdict.seed}: exit code {verdict.exit_code}, "
        f"{verdict.positions} positions, {verdict.fills} fills, realised {verdict.realized}, "
        f"{verdict.cents.normalize():f} cents of difference, {verdict.fired.total()} faults "
        f"of {len(verdict.fired)} kinds, "
        f"{verdict.incidents.total()} incidents, {verdict.starts} starts, {len(exchange)} gaps up to "
        f"{max(exchange, default=0):.1f} s, {verdict.real_seconds:.0f} real seconds"
    )
    facts = [f"      held at the end: {verdict.held}"] if verdict.held else []
    facts += [f"      alerts: {dict(sorted(verdict.alerts.items()))}"]
    return "\n".join([head, *facts, *(f"      {text}" for text in verdict.violations)])


def render_page(verdicts: Sequence[Verdict], commit: str, *, short: bool = False) -> str:
    """Render docs/fault-days.md from the verdicts of one run."""
    fired, incidents = Counter[str](), Counter[str]()
    for verdict in verdicts:
        fired.update(verdict.fired)
        incidents.update(verdict.incidents)
    never = [kind.value for kind in FAULT_KINDS if not fired[kind.value]]
    lines = [
        "# Fault days",
        "",
        "Written by `make fault-days`. A seed draws a generated market, the rates of its faults and its incidents.",
        "Daemon, `catalyst sim` and PostgreSQL run as processes; the daemon reaches the other two through a network",
        f"of our own. About 40 kinds of faults happen at {RATES[0]:.1%} to {RATES[-1]:.1%} of their occasions, rare",
        f"kinds at {RARE_RATES[0]:.0%} to {RARE_RATES[-1]:.0%}, and never end. Daemon, postmaster and exchange are",
        "killed, the daemon is paused, the network delays, cuts, resets, stalls and half-opens connections, sales",
        "are refused for each known reason, lists answer eight seconds late, some days end with SIGTERM; more than",
        "half of these incidents begin at a request that changes an order. An exchange that was killed",
        f"continues from its `--state`. The market runs {SPEED:.0f} times as fast as real time, {HELD_SPEED:.0f} times",
        "while the daemon has a request or transaction in flight, and",
        f"{INCIDENT_SPEED:.0f} times from an incident until 10 market seconds after recovery.",
        "",
        "The judge compares the exchange's executions and its own unprotected times with database, journal, flat",
        "proof, report and exit code. Violations: a fill, a share or a cent of difference; a client order id accepted",
        "twice; a short position; a false proof, or none although all is flat and equal; shares after the close",
        "without a GTC stop; unprotected seconds of the database more than 1 s below the exchange's or more than 5 s",
        "above (an incident may add its length); a longer time without protection and without an alert; a daemon",
        "that ends.",
        "",
        *(["These are short days: the last 90 minutes before the close.", ""] if short else []),
        _total(verdicts, commit),
        "",
        f"Repeat a day with `python -m tests.fault_days --replay SEED{' --short' if short else ''}`.",
        "",
    ]
    red = [verdict for verdict in verdicts if not verdict.passed]
    if red:
        lines += ["## Violations", ""]
        lines += [f"* seed {verdict.seed}: {text[:300]}" for verdict in red for text in verdict.violations]
        lines += [""]
    lines += [
        "## Unprotected seconds",
        "",
        "Market seconds of each time without protection, by the exchange.",
    ]
    lines += ["", "| began by | incident | times | p50 | p99 | max |", "|---|---|---:|---:|---:|---:|"]
    gaps = [gap for verdict in verdicts for gap in verdict.gaps]
    for cause in sorted({(cause, incident) for cause, incident, _ in gaps}):
        values = [seconds for began, incident, seconds in gaps if (began, incident) == cause]
        lines.append(f"| {cause[0]} | {cause[1]} | {len(values)} | {_quantiles(values)} |")
    lines += [
        "",
        "All times of a symbol in a day, by the cause of its longest: the exchange and the database.",
        "",
    ]
    lines += ["| cause | symbols | p50 | p99 | max | database p50 | p99 | max |", "|---|" + "---:|" * 7]
    exposures = [each for verdict in verdicts for each in verdict.exposures]
    for name in [*sorted({each.cause for each in exposures}), "all"]:
        own = [each for each in exposures if name in (each.cause, "all")]
        exchange, database = [each.exchange_s for each in own], [each.database_s for each in own]
        lines.append(f"| {name} | {len(own)} | {_quantiles(exchange)} | {_quantiles(database)} |")
    lines += ["", "## Faults fired", "", f"Kinds that never fired: {', '.join(never) or 'none'}.", ""]
    lines += _table("kind", "fired", ((kind.value, fired[kind.value]) for kind in FAULT_KINDS))
    lines += ["", "## Incidents", ""]
    names = sorted({*incidents, *(str(kind) for kind in IncidentKind if "network" not in kind)})
    lines += _table("incident", "times", ((name, incidents[name]) for name in names))
    lines += [
        "",
        "## Days",
        "",
        "| seed | exit code | positions | fills | faults | incidents | longest gap | green |",
    ]
    lines += ["|---:|---:|---:|---:|---:|---:|---:|---|"]
    lines += [
        f"| {v.seed} | {v.exit_code} | {v.positions} | {v.fills} | {v.fired.total()} | {v.incidents.total()} "
        f"| {max((seconds for *_, seconds in v.gaps), default=0):.1f} s | {'yes' if v.passed else 'no'} |"
        for v in verdicts
    ]
    return "\n".join(lines) + "\n"


def _total(verdicts: Sequence[Verdict], commit: str) -> str:
    green = sum(verdict.passed for verdict in verdicts)
    cents = sum((verdict.cents for verdict in verdicts), Decimal(0))
    seeds = [verdict.seed for verdict in verdicts]
    return (
        f"Commit {commit}; seeds {min(seeds)} to {max(seeds)}: **{green} of {len(verdicts)} days green, "
        f"{sum(len(v.violations) for v in verdicts)} violations, {cents.normalize():f} cents of difference**; "
        f"{sum(v.positions for v in verdicts)} positions, {sum(v.fills for v in verdicts)} fills, "
        f"{sum(v.fired.total() for v in verdicts)} faults, {sum(v.incidents.total() for v in verdicts)} incidents."
    )


def _quantiles(values: Sequence[float]) -> str:
    shown: Callable[[float], str] = lambda value: f"{value:.2f}"  # noqa: E731
    return " | ".join(
        [shown(quantile(values, 0.5)), shown(quantile(values, 0.99)), shown(max(values, default=0.0))]
    )


def _table(first: str, second: str, rows: Iterable[tuple[str, int]]) -> list[str]:
    return [f"| {first} | {second} |", "|---|---:|", *(f"| {name} | {number} |" for name, number in rows)]
