"""Result of one check of `catalyst check`: a line with its verdict and what to do."""

from dataclasses import dataclass
from enum import StrEnum


class CheckVerdict(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of the check; `fix` says what to do and is empty when nothing is wrong."""

    name: str
    verdict: CheckVerdict
    detail: str
    fix: str = ""
