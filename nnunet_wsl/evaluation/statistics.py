"""How sure a mean over cases is, and a difference between two runs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 0

_ROUNDING_SHARE = 1e-9
_MOST_EXACT = 50
_PICKS_AT_ONCE = 2**20


def bootstrap_interval(
    values: npt.NDArray[np.float64], *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = SEED
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean.

    Parameters
    ----------
    values : ndarray of float64, shape (N,)
        One finite value per case; cases are resampled with replacement.
    resamples : int
        Number of resamples.
    level : float
        Coverage.
    seed : int
        The same values and seed give the same interval.

    Returns
    -------
    tuple of float
        Lower and upper bound; NaN without values.
    """
    if not len(values):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    step = max(1, _PICKS_AT_ONCE // len(values))
    for batch in np.split(means, range(step, resamples, step)):  # views
        batch[:] = values[rng.integers(len(values), size=(len(batch), len(values)), dtype=np.int32)].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_p_value(differences: npt.NDArray[np.float64]) -> float:
    """Two-sided p-value of the Wilcoxon signed-rank test that paired differences are symmetric about zero.

    Parameters
    ----------
    differences : ndarray of float64, shape (N,)
        One finite difference per case; cases without difference carry no sign and are left out of the ranks.
        Magnitudes that are equal but for rounding, as of distances on a grid, share a rank.

    Returns
    -------
    float
        Exact for up to 50 cases that differ, a normal approximation for more; 1 if no pair differs.
    """
    changed = differences[differences != 0]
    if not len(changed):
        return 1.0
    ordered = changed[np.argsort(np.abs(changed))]
    steps = np.diff(np.abs(ordered), prepend=0) > _ROUNDING_SHARE * np.abs(ordered[-1])
    # The test looks at signs and ranks alone: the number of steps stands for the size.
    sizes = 1 + np.cumsum(steps)
    if len(changed) > _MOST_EXACT:
        return float(stats.wilcoxon(np.sign(ordered) * sizes).pvalue)
    # SciPy is exact without ties only, or for very few cases.
    doubled_ranks = np.rint(2 * stats.rankdata(sizes)).astype(np.int64)  # whole numbers, also of ties
    probability = np.zeros(doubled_ranks.sum() + 1)  # of each sum of ranks that are positive, if signs are chance
    probability[0] = 1
    for rank in doubled_ranks:
        probability[rank:] = (probability[rank:] + probability[:-rank]) / 2
        probability[:rank] /= 2
    positive = doubled_ranks[ordered > 0].sum()
    return float(min(1, 2 * min(probability[: positive + 1].sum(), probability[positive:].sum())))
