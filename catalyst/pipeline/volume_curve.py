"""Volume curve: the usual share of a day's volume that is traded by a given minute of the session.

The table is the share of a day's volume per five minutes of a 390-minute session of liquid US common stocks, measured
on whole-market days of 2026: a busy open, a quiet middle, a rising last hour, and the closing auction in the last bar.
Values between the measured points are interpolated linearly. A half day uses the curve scaled to its length.
"""

from typing import Final

import numpy as np

# (minute at which a five-minute bar begins, percent of the day's volume in it)
_POINTS: Final = (
    (0, 2.5), (5, 1.8), (10, 1.5), (30, 1.3), (90, 1.0), (150, 0.82), (240, 0.75), (330, 0.85), (350, 1.2),
    (375, 1.9), (380, 3.4), (385, 20.0),
)  # fmt: skip
_FULL_SESSION_MINUTES: Final = 390.0


def _cumulative_curve() -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], ...]:
    starts = np.arange(0.0, _FULL_SESSION_MINUTES, 5.0)
    minutes, percents = zip(*_POINTS, strict=True)
    shares = np.interp(starts, minutes, percents)
    cumulative = np.cumsum(shares) / shares.sum()
    return np.r_[0.0, starts + 5.0], np.r_[0.0, cumulative]


_MINUTES, _CUMULATIVE_SHARES = _cumulative_curve()


def usual_volume_share(elapsed_minutes: float, session_minutes: float = _FULL_SESSION_MINUTES) -> float:
    """Return the usual share of the day's volume traded by `elapsed_minutes` after the open, in (0, 1].

    Less than one minute counts as one, because there is no usual volume before it.
    """
    at = min(max(elapsed_minutes, 1.0), session_minutes) / session_minutes * _FULL_SESSION_MINUTES
    return float(np.interp(at, _MINUTES, _CUMULATIVE_SHARES))
