"""The study of analogies, on vectors whose offsets are known."""

import numpy as np
import pytest

from data.files import UserError
from pipeline.studies.analogy import encode_words, read_quadruples, solve, summarize


def test_offsets_are_found_where_there_are_offsets():
    words, quadruples = read_quadruples()
    assert len(quadruples) == 200
    rng = np.random.default_rng(0)

    # Each word at random, and its partner away from it by an offset of its kind, longer than words are apart.
    noise = rng.normal(size=(len(words), 32))
    vectors = noise.copy()
    for kind in {one.kind for one in quadruples}:
        offset = 3 * rng.normal(size=32)
        for one in quadruples:
            if one.kind == kind:
                vectors[one.d] = vectors[one.c] + offset

    outcomes = {"input": solve(vectors, quadruples, 2, rng)}
    findings = summarize(quadruples, outcomes)
    assert all(effect.low > 0.5 for effect in findings.effects)
    assert findings.controls[0].high < 0.1

    by_chance = summarize(quadruples, {"input": solve(noise, quadruples, 2, rng)})
    assert all(effect.high < 0.1 for effect in by_chance.effects)


def test_a_base_that_splits_the_words_is_refused(tiny):
    with pytest.raises(UserError, match="'king' is . tokens of this base"):
        encode_words(tiny[1], ["king"])
