"""How sure a score is, and whether two scores on the same problems differ."""

import math
from collections import defaultdict
from collections.abc import Sequence
from statistics import NormalDist

# The normal quantile of a two-sided 95 % interval, and its square.
Z_95 = 1.959964
Z_95_SQUARED = Z_95 * Z_95

# By how much a sum of shares may miss its value.
ROUNDING = 1e-6


def wilson_interval(successes: float, n: int) -> tuple[float, float]:
    """Return the 95 % score interval (low, high) of a proportion, both in [0, 1].

    ``successes`` may be a sum of values between 0 and 1, whose spread is no larger than that of zeros and ones of the
    same mean: the interval is then too wide, if anything.

    Raises:
        ValueError: unless 0 <= successes <= n and n > 0.

    Source: E. B. Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22,
    p. 209-212.
    """
    # A sum of shares may end up a rounding error above n.
    if n <= successes < n + ROUNDING:
        successes = n
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}")

    rate = successes / n
    scale = 1 + Z_95_SQUARED / n

    # The fewer there are, the nearer the middle is to one half.
    shift = Z_95_SQUARED / (2 * n)
    middle = (rate + shift) / scale

    variance = rate * (1 - rate) / n
    uncertainty = Z_95_SQUARED / (4 * n * n)
    half = Z_95 * math.sqrt(variance + uncertainty) / scale

    # At the ends the bound is exact; rounding must not move it.
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == n else middle + half
    return low, high


def mcnemar_p(a: Sequence[bool], b: Sequence[bool]) -> float:
    """Return the two-sided p-value that two paired lists of correct and wrong answers are equally good.

    The exact (binomial) form of McNemar's test on the pairs that differ; 1.0 where no pair differs.

    Raises:
        ValueError: where the lists are not of one length.

    Source: Q. McNemar 1947, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12, p. 153-157.
    """
    pairs = list(zip(a, b, strict=True))
    only_a = pairs.count((True, False))
    only_b = pairs.count((False, True))
    n = only_a + only_b

    # The binomial coefficients of n, up to the rarer side, and their sum.
    # In whole numbers, so any n is exact; each term comes from the last, so many problems take no time.
    term = 1
    ways = 1
    for i in range(min(only_a, only_b)):
        term = term * (n - i) // (i + 1)
        ways += term

    # Two sides. They overlap where both are equally frequent.
    p_value = 2 * ways / 2**n
    return min(1.0, p_value)


def sign_flip_p(differences: Sequence[int]) -> float:
    """Return the two-sided p-value that paired differences are as often above zero as below, by as much.

    The exact sign-flip (permutation) test of their sum: the share of all choices of signs whose sum is at least as far
    from zero. With differences of -1, 0 and 1 it is :func:`mcnemar_p`.

    Source: R. A. Fisher 1935, "The Design of Experiments", section 21.
    """
    # Zeros have no sign to flip.
    sizes = [abs(difference) for difference in differences if difference]
    observed = abs(sum(differences))

    # How many choices of signs give each sum, in whole numbers, so that any n is exact.
    ways = {0: 1}
    for size in sizes:
        grown: dict[int, int] = defaultdict(int)
        for total, count in ways.items():
            grown[total + size] += count
            grown[total - size] += count
        ways = grown

    extreme = 0
    for total, count in ways.items():
        if abs(total) >= observed:
            extreme += count

    choices = 2 ** len(sizes)
    return extreme / choices


def bounded_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval (low, high) of the mean of values in [-1, 1], such as paired differences.

    Two more pairs are counted, half of one with a difference of -1 and half with 1, so that values that are all alike
    do not look certain.

    Source: A. Agresti and Y. Min 2005, "Simple improved confidence intervals for comparing matched proportions",
    Statistics in Medicine 24, p. 729-740.
    """
    n = len(values) + 2
    # The two more add nothing to the sum, and 1 to that of the squares.
    mean = math.fsum(values) / n
    squares = math.fsum(value * value for value in values) + 1
    variance = squares / n - mean * mean
    half = Z_95 * math.sqrt(variance / n)
    # A mean of such values lies in the same range.
    return max(-1.0, mean - half), min(1.0, mean + half)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values corrected for their number, in their own order.

    The chance that any of them falls below a level by luck alone stays below that level.

    Source: S. Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6, p. 65-70.
    """
    tests = len(p_values)
    corrected = [0.0] * tests
    smallest_first = sorted(range(tests), key=lambda i: p_values[i])

    # Corrected p-values stay in the order of the p-values.
    largest = 0.0
    for rank, i in enumerate(smallest_first):
        tests_left = tests - rank
        raised = min(1.0, tests_left * p_values[i])
        largest = max(largest, raised)
        corrected[i] = largest
    return corrected


def pass_at_k(k: int, n: int, correct: int) -> float:
    """Return the unbiased estimate that at least one of ``k`` samples is correct where ``correct`` of ``n`` were.

    Raises:
        ValueError: unless 1 <= k <= n and 0 <= correct <= n.

    Source: M. Chen et al. 2021, arXiv 2107.03374, eq. 1.
    """
    if not 1 <= k <= n or not 0 <= correct <= n:
        raise ValueError(f"pass@{k} from {correct} of {n}")

    # Of all choices of k samples, those without a correct one.
    all_wrong = math.comb(n - correct, k)
    return 1 - all_wrong / math.comb(n, k)


def detectable_difference(
    n: int,
    changed: float,
    alpha: float = 0.05,
    power: float = 0.8,
) -> float:
    """Return the smallest difference of two accuracies on the same problems that McNemar's test finds.

    Args:
        n: the number of problems.
        changed: the share of problems with another verdict, in [0, 1].
        alpha: the level of the test.
        power: how often the difference is to be found.

    Returns:
        A difference in [0, 1]; ``changed`` where even that is too small to be found.

    Source: R. J. Connor 1987, "Sample size for testing differences in proportions for the paired-sample design",
    Biometrics 43, p. 207-211, solved for the difference.
    """
    normal = NormalDist()
    level = normal.inv_cdf(1 - alpha / 2)
    reach = normal.inv_cdf(power)

    # So few problems do not reach the level even where all changes go one way.
    if n <= level**2:
        return changed

    root = math.sqrt(n + reach**2 - level**2)
    quantiles = level * math.sqrt(n) + reach * root
    difference = math.sqrt(changed) * quantiles / (n + reach**2)
    return min(changed, difference)
