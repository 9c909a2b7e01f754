"""The one patch of a library, switched by ``base.fast_training``: faster training on a CPU with the same results.

TRL's fused head (``trl.trainer.utils.add_fused_lm_head``) skips positions without a label only where Triton runs. On a
CPU it projects every prompt token to the whole vocabulary, in several passes and once more in the backward: measured on
SmolLM2-135M, 40 % of an SFT step. Here the same outputs come from one plain projection of the labelled positions.

The backward of torch's fused attention is slow on a CPU for texts this short: with plain products four steps of 8
solutions took 13.1 s of processor time in place of 15.6 (bf16, one thread), with losses alike to two digits.

PEFT copies what goes into an adapter to the adapter's fp32, and autocast copies it back to bf16. Without the two copies
32 steps took 39.2 s in place of 43.5, in turn with as many others in one training (bf16, two AMX cores).
"""

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting
from trl.trainer.utils import FusedCausalLMOutput

from pipeline.forward import use_attention

# What some models do to their logits, which the plain projection below would leave out.
RESCALING = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def speed_up_training(model, temperature: float = 1.0) -> None:
    """Patch a model that a trainer of TRL holds; on a GPU nothing is changed.

    Args:
        model: Its forward with ``fused_lm_head=True`` then gives log-probabilities and entropies (nats, both
            (batch, length - 1)), zero where there is no label.
        temperature: Divides the logits.
    """
    if isinstance(model, PeftModel):
        model = model.get_base_model()

    if model.device.type != "cpu":
        return

    config = model.config.get_text_config()
    for name in RESCALING:
        if getattr(config, name, None) is not None:
            return

    stock_forward = model.forward

    def forward(*args, fused_lm_head=False, labels=None, **kwargs):
        # The stock forward adds the balance loss of a mixture of experts.
        if not fused_lm_head or kwargs.get("output_router_logits"):
            return stock_forward(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)

        # The model without its head takes neither.
        kwargs.pop("output_router_logits", None)
        item_count = kwargs.pop("num_items_in_batch", None)
        # Nothing is decoded, so a cache would only take memory.
        kwargs["use_cache"] = False
        # Decoding is as fast with the fused one. What is computed again in the backward pass, after this, must attend
        # as it did here.
        is_computed_again = any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
        attention = config._attn_implementation if is_computed_again else "eager"
        is_cast_anyway = torch.is_autocast_enabled("cpu") and not is_computed_again
        with use_attention(model, attention), disable_input_dtype_casting(model, is_cast_anyway):
            output = model.base_model(*args, **kwargs)

        # A place says what the next token is.
        hidden = output.last_hidden_state[:, :-1]
        next_labels = labels[:, 1:]
        return _score_labels(model, hidden, next_labels, temperature, item_count)

    model.forward = forward


def _score_labels(
    model,
    hidden,
    labels,
    temperature: float,
    item_count,
) -> FusedCausalLMOutput:
    """What TRL's head returns, computed at the labels only."""
    # (batch, length - 1); -100 is what the losses of torch leave out.
    mask = labels != -100
    wanted = labels[mask]

    # (labels, vocabulary)
    head = model.get_output_embeddings()
    logits = head(hidden[mask])
    # Copies in fp32 have no names, so that each is freed at once.
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    label_logprobs = logprobs.gather(-1, wanted[:, None])[:, 0]

    with torch.no_grad():
        entropy = -(logprobs.exp() * logprobs).sum(-1)
        is_top = logprobs.argmax(-1) == wanted

    # masked_scatter keeps the output connected to the model even where there is no label at all.
    zeros = label_logprobs.new_zeros(mask.shape)
    scattered = zeros.masked_scatter(mask, label_logprobs)

    # A batch may have no label.
    count = mask.sum().clamp(min=1) if item_count is None else item_count
    return FusedCausalLMOutput(
        loss=-scattered.sum() / count,
        log_probs=scattered,
        entropy=zeros.masked_scatter(mask, entropy),
        is_top1=torch.zeros_like(mask).masked_scatter(mask, is_top),
        label_mask=mask,
    )
