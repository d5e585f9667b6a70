"""Command lines: what a command prints of its answer."""

from collections.abc import Mapping


def close_line(answer: Mapping[str, object]) -> str:
    if answer.get("waits_for"):
        return (
            f"{answer['waits_for']}: {answer['symbol']} stays under its stop and is sold as soon as it has; "
            "`catalyst positions` shows when it is closed"
        )
    if answer.get("market_open", True):
        return f"exiting {answer['symbol']}; `catalyst positions` shows when it is closed"
    return (
        f"the market is closed: {answer['symbol']} stays under its stop and is sold {answer['sold_when']}; "
        "`catalyst positions` shows when it is closed"
    )


def flatten_line(answer: Mapping[str, object]) -> str:
    resume = "`catalyst resume` allows entries again"
    ended = (
        "the daemon has flattened and ended; start it with `catalyst run`; "
        if answer.get("daemon_ended")
        else ""
    )
    held = answer.get("held")
    if answer.get("flat"):
        account = f" of {answer['account']}" if answer.get("account") else ""
        return f"flat: no order, no position{account}; {ended}{resume}"
    if answer.get("waits_for"):
        shares = (
            ", ".join(map(str, held)) if isinstance(held, list) and held else "every position that it finds"
        )
        return f"NOT flat, {answer['waits_for']}: as soon as it has, it exits {shares}; {resume}"
    if not answer.get("market_open", True) and isinstance(held, list) and held:
        return (
            f"NOT flat, the market is closed: {', '.join(map(str, held))} stay under their stops and are sold "
            f"{answer['sold_when']}; {resume}"
        )
    return f"NOT proven flat: {answer.get('unproven_reason')}; {ended}check `catalyst status` and the broker's own app"


def scan_line(answer: Mapping[str, object]) -> str:
    from catalyst.report.formatting import describe_funnel

    counts, plans = answer.get("counts"), answer.get("plans")
    steps = describe_funnel(counts) if isinstance(counts, dict) else ""
    chosen = ", ".join(map(str, plans)) if isinstance(plans, list) and plans else "nothing to trade"
    return f"{steps}: {chosen}"


def resume_lines(answer: Mapping[str, object]) -> list[str]:
    cleared, still_closed = answer.get("cleared"), answer.get("still_closed")
    lines = [
        f"cleared: {', '.join(map(str, cleared))}"
        if isinstance(cleared, list) and cleared
        else "no latch was set"
    ]
    accepted = answer.get("accepted_carried")
    if isinstance(accepted, list) and accepted:
        lines.append(f"entries are allowed beside the carried {', '.join(map(str, accepted))}")
    reasons = answer.get("reasons")
    if isinstance(still_closed, list) and still_closed:
        texts = reasons if isinstance(reasons, dict) else {}
        lines.append("entries stay blocked by:")
        lines += [f"  {name}: {texts.get(name, '')}" for name in still_closed]
    return lines
