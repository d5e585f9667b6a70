"""Intrabar path: the fixed sequence of prints inside a bar (open, nearer extreme, other extreme, close).

A bar gives four prices and a volume; the exchange needs trades. The path is a convention, not recorded data:
straight legs between the four prices, at most one print per five seconds and at most one per 100 shares, the
volume shared evenly. The first print is the open, exactly at the bar's start; the last is the close, before the
bar's end. Both extremes are reached exactly, and the sizes add up to the bar's volume.

All functions take and return numpy arrays, so the same arithmetic computes the prints of one bar and the newest
print of 7,000 symbols. Prices are integers in ten-thousandths of a dollar. Interior prints lie on the tick (a cent
from $1, a hundredth of a cent below). The four prices of a recorded bar are printed as recorded and may lie
between ticks, as midpoint trades do.
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
    """The paths of many bars, one per row; turning points are print numbers."""

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
    """Return the tick size at `price`, in units: a cent from $1 up, a hundredth of a cent below."""
    return np.where(price >= UNITS, CENT, 1)


def build_path(open_: Ints, high: Ints, low: Ints, close: Ints, volume: Ints, step: Ints) -> IntrabarPath:
    """Return the path of each bar.

    A bar with fewer shares than distinct prices still prints each price, some of them with size 0.
    """
    up_first = (high - open_ < open_ - low) | ((high - open_ == open_ - low) & (close < open_))
    first = np.where(up_first, high, low)
    second = np.where(up_first, low, high)
    legs = (np.abs(first - open_), high - low, np.abs(close - second))
    min_prints = tuple((leg > 0).astype(np.int64) for leg in legs)
    min_count = 1 + min_prints[0] + min_prints[1] + min_prints[2]
    count = np.maximum(np.minimum(volume // SHARES_PER_PRINT, step // SECONDS_PER_PRINT), min_count)
    last_print = count - 1
    length = np.maximum(legs[0] + legs[1] + legs[2], 1)
    turn_first = (2 * last_print * legs[0] + length) // (2 * length)  # rounded to nearest
    turn_first = np.clip(turn_first, min_prints[0], last_print - min_prints[1] - min_prints[2])
    turn_second = (2 * last_print * (legs[0] + legs[1]) + length) // (2 * length)
    turn_second = np.clip(turn_second, turn_first + min_prints[1], last_print - min_prints[2])
    return IntrabarPath(step, volume, count, open_, first, second, close, turn_first, turn_second)


def print_offset(bar_path: IntrabarPath, number: Ints) -> Ints:
    """Return the seconds from the bar's start to print `number`."""
    return number * bar_path.step // bar_path.count


def last_print_number(bar_path: IntrabarPath, elapsed: Ints) -> Ints:
    """Return the number of the newest print not later than `elapsed` seconds (>= 0) after the bar's start."""
    number: Ints = np.minimum(bar_path.count - 1, ((elapsed + 1) * bar_path.count - 1) // bar_path.step)
    return number


def first_print_number(bar_path: IntrabarPath, elapsed: Ints) -> Ints:
    """Return the number of the oldest print not earlier than `elapsed` seconds; `count` when there is none."""
    number: Ints = np.minimum(-(-elapsed * bar_path.count // bar_path.step), bar_path.count)
    return number


def print_price(bar_path: IntrabarPath, number: Ints) -> Ints:
    """Return the price of print `number`, in units."""
    on_first = number <= bar_path.first_extreme_print
    on_second = number <= bar_path.second_extreme_print
    start = np.where(
        on_first, bar_path.open, np.where(on_second, bar_path.first_extreme, bar_path.second_extreme)
    )
    end = np.where(
        on_first, bar_path.first_extreme, np.where(on_second, bar_path.second_extreme, bar_path.close)
    )
    start_print = np.where(
        on_first, 0, np.where(on_second, bar_path.first_extreme_print, bar_path.second_extreme_print)
    )
    end_print = np.where(
        on_first,
        bar_path.first_extreme_print,
        np.where(on_second, bar_path.second_extreme_print, bar_path.count - 1),
    )
    prints_done = number - start_print
    span = np.maximum(end_print - start_print, 1)
    exact = start + (end - start) * prints_done // span
    tick = tick_units(exact)
    on_tick = np.clip((exact + tick // 2) // tick * tick, np.minimum(start, end), np.maximum(start, end))
    return np.where(prints_done == 0, start, np.where(number == end_print, end, on_tick))


def cumulative_shares(bar_path: IntrabarPath, number: Ints) -> Ints:
    """Return the shares traded up to and including print `number`; 0 for number -1."""
    return (number + 1) * bar_path.volume // bar_path.count


def print_size(bar_path: IntrabarPath, number: Ints) -> Ints:
    """Return the shares of print `number`."""
    return cumulative_shares(bar_path, number) - cumulative_shares(bar_path, number - 1)


def highest_price(bar_path: IntrabarPath, start: Ints, end: Ints) -> Ints:
    """Return the highest price of the prints `start` to `end`, both included."""
    ends = np.maximum(print_price(bar_path, start), print_price(bar_path, end))
    top = np.maximum(bar_path.first_extreme, bar_path.second_extreme)
    turn = np.where(
        bar_path.first_extreme >= bar_path.second_extreme,
        bar_path.first_extreme_print,
        bar_path.second_extreme_print,
    )
    return np.where((start <= turn) & (turn <= end), top, ends)


def lowest_price(bar_path: IntrabarPath, start: Ints, end: Ints) -> Ints:
    """Return the lowest price of the prints `start` to `end`, both included."""
    ends = np.minimum(print_price(bar_path, start), print_price(bar_path, end))
    bottom = np.minimum(bar_path.first_extreme, bar_path.second_extreme)
    turn = np.where(
        bar_path.first_extreme < bar_path.second_extreme,
        bar_path.first_extreme_print,
        bar_path.second_extreme_print,
    )
    return np.where((start <= turn) & (turn <= end), bottom, ends)


def mean_price(bar_path: IntrabarPath, number: Ints) -> Floats:
    """Return the average price of prints 0 to `number`, in units; it is used as their volume-weighted price."""
    price_sum = np.zeros(np.broadcast_shapes(bar_path.open.shape, number.shape))
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
    for start, end, start_print, end_print in legs:
        prints_done = np.clip(number, start_print, end_print) - start_print
        slope = (end - start) / np.maximum(end_print - start_print, 1)
        price_sum += (start + slope * prints_done / 2) * prints_done
    average: Floats = np.where(number > 0, price_sum / np.maximum(number, 1), bar_path.open)
    return average
