"""The largest part of a batch that fits the memory is found by trying."""

import copy

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from data.files import UserError
from pipeline import memory


@pytest.fixture
def limited_model(tiny):
    """A function that gives a model which holds so many rows at most, and the list of the rows it was tried with."""

    def make(limit):
        model = copy.deepcopy(tiny[0])
        add_fused_lm_head(model)
        tried = []

        def refuse(module, inputs):
            rows = len(inputs[0])
            tried.append(rows)
            if rows > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

        model.get_input_embeddings().register_forward_pre_hook(refuse)
        return model, tried

    return make


def fit(model, rows):
    """The rows at once, and the steps, of a batch of two times so many rows of 20 tokens."""
    batch = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": 2}
    return tuple(memory.find_largest_part(model, batch, 20, "sft").values())


def test_a_batch_that_fits_stays_whole(limited_model):
    model, tried = limited_model(100)
    assert fit(model, 12) == (12, 2)
    assert tried == [12]


def test_parts_divide_the_batch_and_leave_no_gradient(limited_model):
    model, tried = limited_model(5)
    assert fit(model, 12) == (4, 6)
    assert tried == [12, 6, 4]
    assert all(weights.grad is None for weights in model.parameters())


def test_a_row_that_does_not_fit_is_refused(limited_model):
    model, _ = limited_model(0)
    with pytest.raises(UserError, match="not even one row of 20 tokens"):
        fit(model, 4)


def test_on_a_cpu_nothing_is_tried(tiny):
    batch = {"per_device_train_batch_size": 12, "gradient_accumulation_steps": 2}
    # It has no fused head, so a trial would fail.
    assert memory.fit_batch(tiny[0], batch, 20, "sft") == batch
