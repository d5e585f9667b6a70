"""The tape inside a bar."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from catalyst.simulator.market import intrabar_path


@st.composite
def bars(draw: st.DrawFn) -> intrabar_path.Walk:
    """The walk of any bar: penny stocks and Berkshire, one share and a million, on and off the tick."""
    low = draw(st.integers(1, 8_000_000_000))
    high = low + draw(st.integers(0, max(low // 5, 3)))
    open_, close = draw(st.integers(low, high)), draw(st.integers(low, high))
    volume = draw(st.one_of(st.integers(1, 10), st.integers(1, 50_000_000)))
    step = draw(st.sampled_from((60, 300)))
    return intrabar_path.walk(*(np.array([value]) for value in (open_, high, low, close, volume, step)))


def tape(walk: intrabar_path.Walk) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """Seconds, prices and sizes of the prints."""
    numbers = np.arange(int(walk.count[0]))
    found = (
        intrabar_path.offset(walk, numbers),
        intrabar_path.price(walk, numbers),
        intrabar_path.size(walk, numbers),
    )
    return found[0].tolist(), found[1].tolist(), found[2].tolist()


@given(bars())
def test_the_prints_of_a_bar_tell_the_bar(walk: intrabar_path.Walk) -> None:
    """First print, extremes, last print and total size are the bar's open, high, low, close and volume."""
    _, prices, sizes = tape(walk)
    assert prices[0] == walk.open[0]
    assert prices[-1] == walk.close[0]
    assert max(prices) == max(walk.first[0], walk.second[0])
    assert min(prices) == min(walk.first[0], walk.second[0])
    assert sum(sizes) == walk.volume[0]
    assert min(sizes) >= 0


@given(bars())
def test_prints_lie_inside_their_bar_in_order(walk: intrabar_path.Walk) -> None:
    """The first print is at the start, each is later than the one before, the last is before the end."""
    times, _, _ = tape(walk)
    assert times[0] == 0
    assert all(one < other for one, other in pairwise(times))
    assert times[-1] < walk.step[0]


@given(bars())
def test_prints_between_the_turning_points_are_on_the_tick(walk: intrabar_path.Walk) -> None:
    """Only a bar's own four prices may lie between ticks, and the ends of a leg that is off the tick."""
    _, prices, _ = tape(walk)
    own = {int(walk.open[0]), int(walk.first[0]), int(walk.second[0]), int(walk.close[0])}
    assert all(price in own or price % (100 if price >= intrabar_path.UNITS else 1) == 0 for price in prices)


@given(bars(), st.integers(0, 299))
def test_the_newest_print_is_the_last_one_not_later(walk: intrabar_path.Walk, elapsed: int) -> None:
    """Finding a print by time agrees with reading the tape."""
    times, _, _ = tape(walk)
    elapsed = min(elapsed, int(walk.step[0]) - 1)
    newest = max(number for number, second in enumerate(times) if second <= elapsed)
    assert intrabar_path.newest(walk, np.array([elapsed]))[0] == newest
    later = [number for number, second in enumerate(times) if second >= elapsed]
    assert intrabar_path.oldest(walk, np.array([elapsed]))[0] == (later[0] if later else len(times))


@given(bars(), st.data())
def test_any_stretch_of_the_tape_knows_its_extremes(walk: intrabar_path.Walk, data: st.DataObject) -> None:
    """High, low and volume of a stretch, found without the tape, are the tape's."""
    _, prices, sizes = tape(walk)
    start = data.draw(st.integers(0, len(prices) - 1))
    end = data.draw(st.integers(start, len(prices) - 1))
    one, other = np.array([start]), np.array([end])
    assert intrabar_path.highest(walk, one, other)[0] == max(prices[start : end + 1])
    assert intrabar_path.lowest(walk, one, other)[0] == min(prices[start : end + 1])
    assert (intrabar_path.traded(walk, other) - intrabar_path.traded(walk, one - 1))[0] == sum(
        sizes[start : end + 1]
    )


@given(bars(), st.data())
def test_the_mean_price_is_that_of_the_prints_so_far(walk: intrabar_path.Walk, data: st.DataObject) -> None:
    """The average knows no later print: it lies between the lowest and highest so far."""
    number = np.array([data.draw(st.integers(0, int(walk.count[0]) - 1))])
    mean = intrabar_path.mean(walk, number)[0]
    start = np.array([0])
    assert (
        intrabar_path.lowest(walk, start, number)[0] - 100
        <= mean
        <= intrabar_path.highest(walk, start, number)[0] + 100
    )


def test_the_nearer_extreme_comes_first() -> None:
    """From 10.00 with a low at 9.95 and a high at 11.00 the tape falls first; mirrored, it rises first."""
    walk = intrabar_path.walk(*(np.array([v, w]) for v, w in (
        (100_000, 100_000), (110_000, 100_500), (99_500, 90_000), (105_000, 95_000), (100_000,) * 2, (60,) * 2
    )))  # fmt: skip
    assert walk.first.tolist() == [99_500, 100_500]
