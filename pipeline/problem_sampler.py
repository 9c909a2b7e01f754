"""Which problems GRPO samples: each level as often as its samples differ.

A group of samples teaches only where some earn more than others, and the gradient's size follows the variance of the
reward, p (1 - p) at a pass rate of p. So a level is drawn by that, times the number of its problems (levels by pass
rate: Kimi k1.5, arXiv 2501.12599, section 2.3.4).
"""

import random
from collections.abc import Mapping, Sequence

from data.problem import Problem

# A level that was always or never solved in a few samples may still be mixed now and then.
LOWEST_RATE = 0.02

# What is not known may teach most.
UNKNOWN_RATE = 0.5


class ProblemSampler:
    """Draws problems from pools by level, by the levels' pass rates.

    What is drawn depends on the seed and the number of the draw alone. So nothing has to be saved for a training that
    goes on from a checkpoint.
    """

    def __init__(
        self,
        pools: Mapping[str, Sequence[Problem]],
        rates: Mapping[str, float],
        seed: int,
    ) -> None:
        self.seed = seed
        self.pools = {}
        self.weights = []

        for level, problems in pools.items():
            rate = rates.get(level, UNKNOWN_RATE)
            rate = min(max(rate, LOWEST_RATE), 1 - LOWEST_RATE)
            self.weights.append(len(problems) * rate * (1 - rate))

            # Another seed goes through them in another order.
            rng = random.Random(f"{seed} {level}")
            self.pools[level] = rng.sample(list(problems), len(problems))

    def draw(self, number: int) -> Problem:
        """Return the problem of draw ``number``, counted from 0 over the whole training."""
        rng = random.Random(f"{self.seed} {number}")
        [level] = rng.choices(list(self.pools), self.weights)

        # Of a level each problem comes up once a pass at most. Shifted by one each pass, others come up in the next.
        pool = self.pools[level]
        passes, place = divmod(number, len(pool))
        return pool[(place + passes) % len(pool)]
