"""The pictures show what their captions say, and the towers find what they can have learnt."""

import itertools

import numpy as np
import pytest
import torch

from pipeline.studies.pictures import COLOURS, COLUMNS, PIXELS, ROWS, SHAPES, Towers, draw, measure, retrieve


def test_a_picture_has_its_colour_and_its_place():
    rng = np.random.default_rng(0)
    for caption in itertools.product(COLOURS, SHAPES, ROWS, COLUMNS):
        colour, _, row, column = caption
        picture = draw(caption, rng)
        assert picture.shape == (3, PIXELS, PIXELS)

        lit = picture > 0.3
        assert [bool(channel.any()) for channel in lit] == [bool(part) for part in COLOURS[colour]]
        y, x = (places.mean() for places in np.nonzero(lit.any(0)))
        assert (ROWS[int(y // 8)], COLUMNS[int(x // 8)]) == (row, column)


def test_each_shape_looks_different():
    pictures = [draw(("white", shape, "top", "left"), np.random.default_rng(0)) > 0.3 for shape in SHAPES]
    assert len({picture.tobytes() for picture in pictures}) == len(SHAPES)


def test_a_caption_is_found_where_picture_and_words_agree(settings, monkeypatch):
    captions = list(itertools.product(("red", "blue"), SHAPES[:2], ROWS, COLUMNS))
    towers = Towers(8)
    # A tower that reads the colour alone.
    with torch.no_grad():
        towers.words.weight.zero_()
        towers.words.weight[0, 0] = towers.words.weight[2, 1] = 1.0
    monkeypatch.setattr(
        towers, "encode_pictures", lambda pictures: torch.from_numpy(pictures[:, ::2].mean((2, 3))) @ torch.eye(2, 8)
    )

    right = retrieve(towers, captions, settings("pictures", pictures=2))
    assert right["colour"].mean() == 1.0
    assert right["whole caption"].mean() == pytest.approx(1 / 18)


def test_training_and_the_control_run(settings):
    findings = measure(settings("pictures", steps=3, batch_size=8, pictures=1, unseen=0.1), None)
    assert findings.n == 27
    assert {line.label for line in findings.lines} == {
        "captions, unseen",
        "captions, seen",
        "shuffled captions, unseen",
    }
