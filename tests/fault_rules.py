"""Check of the fault rules that a test set: a rule that never fires leaves its test without the failure."""

from collections.abc import Container

from catalyst.simulator.faults.rules import CONDITIONS, Fault, FaultRules


def silent_rules(rules: FaultRules, allowed_ids: Container[str] = ()) -> list[str]:
    """Return the rules that never fired, removed ones included, as text; `allowed_ids` may stay silent."""
    return [_rule_text(fault) for fault in rules.never_fired if fault.id not in allowed_ids]


def assert_every_rule_fired(rules: FaultRules, allowed_ids: Container[str] = ()) -> None:
    """Check that each rule fired at least once."""
    silent = silent_rules(rules, allowed_ids)
    assert not silent, f"fault rules that never fired: {'; '.join(silent)}"


def _rule_text(fault: Fault) -> str:
    conditions = {name: getattr(fault, name) for name in sorted(CONDITIONS)}
    given = [f"{name}={value}" for name, value in conditions.items() if value is not None]
    return " ".join([fault.kind.value, *given, f"nth={fault.nth}", f"matched={fault.matched}"])
