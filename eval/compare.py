"""How sure a score is, and whether two scores on the same problems differ."""

import math
from collections.abc import Sequence
from statistics import NormalDist


def wilson(successes: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The score interval (low, high) of a proportion, both in [0, 1]; ``z`` = 1.959964 gives 95 %.

    E. B. Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22, p. 209-212.
    ``successes`` may be a sum of values between 0 and 1, whose spread is no larger than that of zeros and ones of the
    same mean: the interval is then too wide, if anything. Raises ValueError unless 0 <= successes <= n and n > 0.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}")
    rate = successes / n
    scale = 1 + z * z / n
    middle = (rate + z * z / (2 * n)) / scale
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / scale
    # At the ends the bound is exact; rounding must not move it.
    return (0.0 if successes == 0 else middle - half, 1.0 if successes == n else middle + half)


def mcnemar(a: Sequence[bool], b: Sequence[bool]) -> float:
    """The two-sided p-value that two paired lists of right and wrong answers are equally good.

    The exact (binomial) form of McNemar's test on the pairs that differ: Q. McNemar 1947, "Note on the sampling error
    of the difference between correlated proportions or percentages", Psychometrika 12, p. 153-157. 1.0 where no pair
    differs. Raises ValueError where the lists are not of one length.
    """
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    n = only_a + only_b
    ways = term = 1  # in whole numbers, so any n is exact
    for i in range(min(only_a, only_b)):
        term = term * (n - i) // (i + 1)
        ways += term
    return min(1.0, 2 * ways / 2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number, in their own order: the chance that any of them falls below a level by
    luck alone stays below it (S. Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian
    Journal of Statistics 6, p. 65-70)."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def pass_at(k: int, n: int, right: int) -> float:
    """The unbiased estimate that at least one of ``k`` samples is right where ``right`` of ``n`` were (n >= k >= 1):
    M. Chen et al. 2021, arXiv 2107.03374, eq. 1."""
    if not 1 <= k <= n or not 0 <= right <= n:
        raise ValueError(f"pass@{k} from {right} of {n}")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def detectable(n: int, changed: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest difference of two accuracies on the same ``n`` problems that McNemar's test at ``alpha`` finds with
    ``power``, where a share ``changed`` of the problems has another verdict: R. J. Connor 1987, "Sample size for
    testing differences in proportions for the paired-sample design", Biometrics 43, p. 207-211, solved for the
    difference. ``changed`` where even that is too small to be found; all in [0, 1]."""
    normal = NormalDist()
    level, reach = normal.inv_cdf(1 - alpha / 2), normal.inv_cdf(power)

    def needed(difference: float) -> float:
        spread = level * math.sqrt(changed) + reach * math.sqrt(changed - difference**2)
        return (spread / difference) ** 2

    low, high = 0.0, changed  # the n that is needed falls as the difference grows
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if needed(middle) > n else (low, middle)
    return high
