"""The tape inside a bar: open, the nearer extreme, the other one, close, as a fixed sequence of prints.

A bar tells four prices and a volume; the exchange needs trades. The walk is a convention, not knowledge:
straight legs between the four prices, a print each five seconds at most and no more than one for each 100
shares, the volume shared evenly. Its first print is the open, exactly when the bar starts; its last is the
close, before the bar ends; both extremes are reached exactly; sizes add up to the bar's volume.

Everything here takes and returns numpy arrays, so one bar's prints and the newest print of 7,000 symbols come
from the same arithmetic. Prices are integers, ten-thousandths of a dollar. Interior prints lie on the tick
(a cent from $1, a hundredth of a cent below); the four prices of a recorded bar are printed as recorded, and
may lie between ticks, as midpoint trades do.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from catalyst.simulator.market.interface import Floats, Ints

UNITS: Final = 10_000  # price units in a dollar
CENT: Final = 100
SECONDS_PER_PRINT: Final = 5
SHARES_PER_PRINT: Final = 100


@dataclass(frozen=True, slots=True)
class IntrabarPath:
    """The walks of many bars, one per row; turning points are print numbers."""

    step: Ints  # seconds
    volume: Ints
    count: Ints  # prints, at least one
    open: Ints
    first_extreme: Ints  # the extreme reached first
    second_extreme: Ints
    close: Ints
    first_extreme_print: Ints
    second_extreme_print: Ints


def tick_units(price: Ints) -> Ints:
    """The price grid at `price`: a cent from $1 up, a hundredth of a cent below."""
    return np.where(price >= UNITS, CENT, 1)


def build_path(open_: Ints, high: Ints, low: Ints, close: Ints, volume: Ints, step: Ints) -> IntrabarPath:
    """Lay the walk of each bar.

    A bar with fewer shares than distinct prices still prints each of them, some with size 0.
    """
    up_first = (high - open_ < open_ - low) | ((high - open_ == open_ - low) & (close < open_))
    first = np.where(up_first, high, low)
    second = np.where(up_first, low, high)
    legs = (np.abs(first - open_), high - low, np.abs(close - second))
    needs = tuple((leg > 0).astype(np.int64) for leg in legs)
    least = 1 + needs[0] + needs[1] + needs[2]
    count = np.maximum(np.minimum(volume // SHARES_PER_PRINT, step // SECONDS_PER_PRINT), least)
    last = count - 1
    length = np.maximum(legs[0] + legs[1] + legs[2], 1)
    turn_first = (2 * last * legs[0] + length) // (2 * length)  # rounded to nearest
    turn_first = np.clip(turn_first, needs[0], last - needs[1] - needs[2])
    turn_second = (2 * last * (legs[0] + legs[1]) + length) // (2 * length)
    turn_second = np.clip(turn_second, turn_first + needs[1], last - needs[2])
    return IntrabarPath(step, volume, count, open_, first, second, close, turn_first, turn_second)


def print_offset(bar_path: IntrabarPath, number: Ints) -> Ints:
    """Seconds from the bar's start to print `number`."""
    return number * bar_path.step // bar_path.count


def last_print_number(bar_path: IntrabarPath, elapsed: Ints) -> Ints:
    """The number of the newest print not later than `elapsed` seconds (>= 0) after the bar's start."""
    number: Ints = np.minimum(bar_path.count - 1, ((elapsed + 1) * bar_path.count - 1) // bar_path.step)
    return number


def first_print_number(bar_path: IntrabarPath, elapsed: Ints) -> Ints:
    """The number of the oldest print not earlier than `elapsed` seconds; `count` when there is none."""
    number: Ints = np.minimum(-(-elapsed * bar_path.count // bar_path.step), bar_path.count)
    return number


def print_price(bar_path: IntrabarPath, number: Ints) -> Ints:
    """The price of print `number`."""
    on_first = number <= bar_path.first_extreme_print
    on_second = number <= bar_path.second_extreme_print
    start = np.where(
        on_first, bar_path.open, np.where(on_second, bar_path.first_extreme, bar_path.second_extreme)
    )
    end = np.where(
        on_first, bar_path.first_extreme, np.where(on_second, bar_path.second_extreme, bar_path.close)
    )
    begins = np.where(
        on_first, 0, np.where(on_second, bar_path.first_extreme_print, bar_path.second_extreme_print)
    )
    ends = np.where(
        on_first,
        bar_path.first_extreme_print,
        np.where(on_second, bar_path.second_extreme_print, bar_path.count - 1),
    )
    done = number - begins
    span = np.maximum(ends - begins, 1)
    exact = start + (end - start) * done // span
    grid = tick_units(exact)
    near = np.clip((exact + grid // 2) // grid * grid, np.minimum(start, end), np.maximum(start, end))
    return np.where(done == 0, start, np.where(number == ends, end, near))


def cumulative_shares(bar_path: IntrabarPath, number: Ints) -> Ints:
    """Shares traded up to and including print `number`; 0 for number -1."""
    return (number + 1) * bar_path.volume // bar_path.count


def print_size(bar_path: IntrabarPath, number: Ints) -> Ints:
    """Shares of print `number`."""
    return cumulative_shares(bar_path, number) - cumulative_shares(bar_path, number - 1)


def highest_price(bar_path: IntrabarPath, start: Ints, end: Ints) -> Ints:
    """The highest of the prints `start` to `end`, both included."""
    ends = np.maximum(print_price(bar_path, start), print_price(bar_path, end))
    top = np.maximum(bar_path.first_extreme, bar_path.second_extreme)
    turn = np.where(
        bar_path.first_extreme >= bar_path.second_extreme,
        bar_path.first_extreme_print,
        bar_path.second_extreme_print,
    )
    return np.where((start <= turn) & (turn <= end), top, ends)


def lowest_price(bar_path: IntrabarPath, start: Ints, end: Ints) -> Ints:
    """The lowest of the prints `start` to `end`, both included."""
    ends = np.minimum(print_price(bar_path, start), print_price(bar_path, end))
    bottom = np.minimum(bar_path.first_extreme, bar_path.second_extreme)
    turn = np.where(
        bar_path.first_extreme < bar_path.second_extreme,
        bar_path.first_extreme_print,
        bar_path.second_extreme_print,
    )
    return np.where((start <= turn) & (turn <= end), bottom, ends)


def mean_price(bar_path: IntrabarPath, number: Ints) -> Floats:
    """The average price of prints 0 to `number`, in units: what their volume-weighted price would be."""
    area = np.zeros(np.broadcast_shapes(bar_path.open.shape, number.shape))
    legs = (
        (
            bar_path.open,
            bar_path.first_extreme,
            np.zeros_like(bar_path.first_extreme_print),
            bar_path.first_extreme_print,
        ),
        (
            bar_path.first_extreme,
            bar_path.second_extreme,
            bar_path.first_extreme_print,
            bar_path.second_extreme_print,
        ),
        (bar_path.second_extreme, bar_path.close, bar_path.second_extreme_print, bar_path.count - 1),
    )
    for start, end, begins, ends in legs:
        done = np.clip(number, begins, ends) - begins
        slope = (end - start) / np.maximum(ends - begins, 1)
        area += (start + slope * done / 2) * done
    average: Floats = np.where(number > 0, area / np.maximum(number, 1), bar_path.open)
    return average
