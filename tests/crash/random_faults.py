"""Randomized fault runs: a scenario with random faults and up to two crashes, all drawn from one seed.

The faults end with the scenario; then the daemon must recover. In a part of the runs they last to the close, lists of
orders answer late, a refusal of the broker hits exits or stops, or another installation runs on the account.

    python -m tests.crash.random_faults                 seeds 1 to 200
    python -m tests.crash.random_faults --seeds 5000 --first-seed 1001
    python -m tests.crash.random_faults --replay 17     one seed: prints what it draws, and its log

Each seed draws a few fault kinds and a few rates, so that rare kinds also occur alone. The exit code is 1
when a seed is red. A red seed repeats on every machine, except for the order in which two concurrent requests
arrive.
"""

import argparse
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from catalyst.domain.fault_points import Moment
from catalyst.domain.refusals import KNOWN_REFUSALS
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.faults.schedule import FaultSchedule
from tests.crash.extra_faults import NO_EXTRAS, ExtraFaults
from tests.crash.matrix import open_database, print_outcome, render_figures, run_all, run_one
from tests.crash.restartable_daemon import ANY_STEP, CrashPoint
from tests.crash.scenario_run import RandomFaults, RunOutcome
from tests.crash.scenarios import SCENARIOS

MAX_CRASH_STEP: Final = 150  # a crash is drawn among the first 150 steps, recoveries included
MAX_FAULT_KINDS: Final = 6
FAULT_RATES: Final = (0.02, 0.05, 0.1, 0.2, 0.4)
# Kinds after which no daemon can be right, and kinds that wait in real seconds.
EXCLUDED_KINDS: Final = frozenset(
    {
        FaultKind.DOUBLE_EXIT,  # the exchange itself crosses zero; has its own scenario test
        FaultKind.HALT,  # lasts longer than the scenario
        FaultKind.LIQUIDATE_FAIL,  # the daemon never sends this request
        FaultKind.STREAM_REPLAY,  # has its own scenario test; a further kind changes the draws of every seed
        FaultKind.HANG,  # the call's time-out runs in real time; a cut connection leaves the same unknown outcome
        FaultKind.HANG_BEFORE,
        FaultKind.SLOW,
        FaultKind.SLOW_BEFORE,
    }
)
# Kinds with few occasions: the scenarios that have some. Their rates are high, or no seed would reach them.
SCENARIOS_OF_RARE_KINDS: Final[dict[FaultKind, tuple[str, ...]]] = {
    FaultKind.GAP: ("bracket_loss", "daily_loss", "stop_replaced"),
    FaultKind.NO_TRIGGER: ("bracket_loss", "daily_loss", "stop_replaced"),
    FaultKind.STOP_REPLACED: ("bracket_loss", "daily_loss"),
    FaultKind.REPLACE_REJECT: ("daily_loss", "end_of_day", "sigterm"),
    FaultKind.STREAM_SECOND: tuple(sorted(SCENARIOS)),
}
RARE_KIND_RATES: Final = (0.4, 0.7)
FAULT_KINDS: Final = tuple(kind for kind in FaultKind if kind not in EXCLUDED_KINDS)


@dataclass(frozen=True, slots=True)
class RandomFaultRun:
    """Scenario, crash points and fault schedule that one seed draws."""

    seed: int
    scenario: str
    crash_points: tuple[CrashPoint, ...]
    schedule: FaultSchedule
    extras: ExtraFaults = NO_EXTRAS

    @classmethod
    def from_seed(cls, seed: int) -> "RandomFaultRun":
        """Draw a run from the seed."""
        draw = random.Random(seed)
        kinds = draw.sample(FAULT_KINDS, draw.randint(1, MAX_FAULT_KINDS))
        crash_points = [
            CrashPoint(ANY_STEP, draw.randint(1, MAX_CRASH_STEP), draw.choice(list(Moment)))
            for _ in range(draw.randint(0, 2))
        ]
        rates = {kind: draw.choice(FAULT_RATES) for kind in kinds}
        scenario = draw.choice(sorted(SCENARIOS))
        for kind in [kind for kind in kinds if kind in SCENARIOS_OF_RARE_KINDS]:
            rates[kind] = draw.choice(RARE_KIND_RATES)
            scenario = draw.choice(SCENARIOS_OF_RARE_KINDS[kind])
        if FaultKind.REPLACE_REJECT in rates:
            rates[FaultKind.CANCEL_REJECT] = 1.0  # an exit replaces its target when its cancels are rejected
        extras = NO_EXTRAS if scenario == "external_trades" else _draw_extras(draw, seed)
        if (
            extras.second_installation
        ):  # without a crash and without faults of the stream: it would take the stream
            crash_points = []
            rates = {kind: rate for kind, rate in rates.items() if not kind.startswith("stream_")}
        return cls(seed, scenario, tuple(crash_points), FaultSchedule(seed, rates), extras)

    def __str__(self) -> str:
        faults = ", ".join(f"{kind} {rate}" for kind, rate in self.schedule.rates.items())
        extras = f", {self.extras}" if str(self.extras) else ""
        return f"seed {self.seed}: {self.scenario}, {len(self.crash_points)} crashes, {faults}{extras}"

    @property
    def run_arguments(self) -> tuple[str, tuple[CrashPoint, ...], RandomFaults]:
        """Return the arguments of `run_one` after the database."""
        return self.scenario, self.crash_points, RandomFaults(self.schedule, self.extras)


def _draw_extras(draw: random.Random, seed: int) -> ExtraFaults:
    """Draw what happens beside the schedule: nothing in a third of the runs."""
    if draw.random() < 1 / 3:
        return NO_EXTRAS
    return ExtraFaults(
        seed,
        late_lists=draw.random() < 0.3,
        refusal=draw.choice(KNOWN_REFUSALS) if draw.random() < 0.6 else None,
        refusal_rate=draw.choice((0.3, 0.6, 1.0)),
        refused_order=draw.choice(("sale", "sale", "replacement", "protection")),
        second_installation=draw.random() < 0.2,
        last_to_close=draw.random() < 0.4,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the selected seeds; return 0 when every run is green, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.random_faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--replay", type=int, help="repeat one seed and print its log")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops the server and the workers
    with open_database() as base:
        if options.replay is not None:
            fault_run = RandomFaultRun.from_seed(options.replay)
            print(fault_run)
            outcome = run_one(base, *fault_run.run_arguments)
            print_outcome(outcome, with_log=True)
            return 0 if outcome.passed else 1
        began = time.monotonic()
        fault_runs = {
            seed: RandomFaultRun.from_seed(seed)
            for seed in range(options.first_seed, options.first_seed + options.seeds)
        }
        outcomes: list[RunOutcome] = []
        fired: Counter[str] = Counter()
        for outcome in run_all(
            base, [fault_run.run_arguments for fault_run in fault_runs.values()], workers=options.workers
        ):
            outcomes.append(outcome)
            fired.update(outcome.fired)
            if not outcome.passed:
                print(fault_runs[outcome.seed])
                print_outcome(outcome)
            if len(outcomes) % 50 == 0:
                print(f"{len(outcomes)} of {len(fault_runs)}", flush=True)
        green = sum(outcome.passed for outcome in outcomes)
        print(f"{green} of {len(outcomes)} green in {time.monotonic() - began:.0f} s")
        print(render_figures(outcomes))
        print(
            f"faults fired: {fired.total()}; never: {', '.join(sorted(set(FAULT_KINDS) - set(fired))) or 'none'}"
        )
        return 0 if green == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
