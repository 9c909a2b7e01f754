"""The probe of disambiguation finds a sense that the states hold, and none that they do not."""

import numpy as np

from pipeline.studies.disambiguation import find_senses, measure, probe_word


def test_a_sense_is_found_in_contexts_that_were_held_out(settings):
    rng = np.random.default_rng(0)
    recipe = settings("disambiguation")
    states = rng.normal(size=(16, 2, 64))
    senses = find_senses(states)
    assert senses.tolist() == [0] * 8 + [1] * 8

    by_chance = [probe_word(rng.normal(size=(16, 2, 64)), senses, recipe).mean() for _ in range(20)]
    assert 0.4 < np.mean(by_chance) < 0.6
    # What tells the contexts apart, not the senses, is of no use.
    names = np.zeros((16, 2, 64)) + 5 * np.eye(16, 64)[:, None]
    assert probe_word(names, senses, recipe).mean() < 0.6

    # A sense is in many features, as in a model.
    states[..., :16] += 4 * senses[:, None, None]
    assert probe_word(states, senses, recipe).mean() > 0.9


def test_layer_0_is_chance_by_design(settings, tiny_base):
    findings = measure(settings("disambiguation", words=3, layers=3, shuffles=1), tiny_base)
    assert findings.n == 48
    assert findings.controls[0].value == 0.0
    assert [line.x for line in findings.lines] == [[0, 1, 2]] * 2
