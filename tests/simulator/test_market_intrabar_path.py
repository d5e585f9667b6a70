"""The modelled prints inside a bar."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from catalyst.simulator.market import intrabar_path


@st.composite
def bar_walks(draw: st.DrawFn) -> intrabar_path.IntrabarPath:
    """Draw the path of any bar: from penny stocks to Berkshire, from one share to millions, on and off the
    tick."""
    low = draw(st.integers(1, 8_000_000_000))
    high = low + draw(st.integers(0, max(low // 5, 3)))
    open_, close = draw(st.integers(low, high)), draw(st.integers(low, high))
    volume = draw(st.one_of(st.integers(1, 10), st.integers(1, 50_000_000)))
    step = draw(st.sampled_from((60, 300)))
    return intrabar_path.build_path(*(np.array([value]) for value in (open_, high, low, close, volume, step)))


def prints_of(walk: intrabar_path.IntrabarPath) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Return seconds, prices and sizes of the prints."""
    numbers = np.arange(int(walk.count[0]))
    found = (
        intrabar_path.print_offset(walk, numbers),
        intrabar_path.print_price(walk, numbers),
        intrabar_path.print_size(walk, numbers),
    )
    return found[0].tolist(), found[1].tolist(), found[2].tolist()


@given(bar_walks())
def test_intrabar_prints_add_up_to_their_bar(walk: intrabar_path.IntrabarPath) -> None:
    """First print, extremes, last print and total size equal the bar's open, high, low, close and volume."""
    _, prices, sizes = prints_of(walk)
    assert prices[0] == walk.open[0]
    assert prices[-1] == walk.close[0]
    assert max(prices) == max(walk.first_extreme[0], walk.second_extreme[0])
    assert min(prices) == min(walk.first_extreme[0], walk.second_extreme[0])
    assert sum(sizes) == walk.volume[0]
    assert min(sizes) >= 0


@given(bar_walks())
def test_intrabar_prints_are_in_order_within_their_bar(walk: intrabar_path.IntrabarPath) -> None:
    """The first print is at the start, each is later than the one before, the last is before the end."""
    times, _, _ = prints_of(walk)
    assert times[0] == 0
    assert all(earlier < later for earlier, later in pairwise(times))
    assert times[-1] < walk.step[0]


@given(bar_walks())
def test_intrabar_prints_are_on_tick_between_turning_points(walk: intrabar_path.IntrabarPath) -> None:
    """Only the bar's own four prices may lie between ticks."""
    _, prices, _ = prints_of(walk)
    own = {int(walk.open[0]), int(walk.first_extreme[0]), int(walk.second_extreme[0]), int(walk.close[0])}
    assert all(price in own or price % (100 if price >= intrabar_path.UNITS else 1) == 0 for price in prices)


@given(bar_walks(), st.integers(0, 299))
def test_newest_and_oldest_print_are_found_by_time(walk: intrabar_path.IntrabarPath, elapsed: int) -> None:
    """The print found by time is the one found by a scan of all prints."""
    times, _, _ = prints_of(walk)
    elapsed = min(elapsed, int(walk.step[0]) - 1)
    newest = max(number for number, second in enumerate(times) if second <= elapsed)
    assert intrabar_path.last_print_number(walk, np.array([elapsed]))[0] == newest
    later = [number for number, second in enumerate(times) if second >= elapsed]
    assert intrabar_path.first_print_number(walk, np.array([elapsed]))[0] == (
        later[0] if later else len(times)
    )


@given(bar_walks(), st.data())
def test_extremes_and_volume_of_a_print_range_are_exact(
    walk: intrabar_path.IntrabarPath, data: st.DataObject
) -> None:
    """High, low and volume of a range, computed without its prints, equal those of the prints."""
    _, prices, sizes = prints_of(walk)
    start = data.draw(st.integers(0, len(prices) - 1))
    end = data.draw(st.integers(start, len(prices) - 1))
    first, last = np.array([start]), np.array([end])
    assert intrabar_path.highest_price(walk, first, last)[0] == max(prices[start : end + 1])
    assert intrabar_path.lowest_price(walk, first, last)[0] == min(prices[start : end + 1])
    assert (intrabar_path.cumulative_shares(walk, last) - intrabar_path.cumulative_shares(walk, first - 1))[
        0
    ] == sum(sizes[start : end + 1])


@given(bar_walks(), st.data())
def test_mean_price_uses_only_the_prints_so_far(
    walk: intrabar_path.IntrabarPath, data: st.DataObject
) -> None:
    """The mean lies between the lowest and highest price so far, so no later print is in it."""
    number = np.array([data.draw(st.integers(0, int(walk.count[0]) - 1))])
    mean = intrabar_path.mean_price(walk, number)[0]
    start = np.array([0])
    assert (
        intrabar_path.lowest_price(walk, start, number)[0] - 100
        <= mean
        <= intrabar_path.highest_price(walk, start, number)[0] + 100
    )


def test_intrabar_path_visits_the_nearer_extreme_first() -> None:
    """From 10.00 with a low of 9.95 and a high of 11.00 the path falls first; mirrored, it rises first."""
    walk = intrabar_path.build_path(*(np.array([v, w]) for v, w in (
        (100_000, 100_000), (110_000, 100_500), (99_500, 90_000), (105_000, 95_000), (100_000,) * 2, (60,) * 2
    )))  # fmt: skip
    assert walk.first_extreme.tolist() == [99_500, 100_500]
