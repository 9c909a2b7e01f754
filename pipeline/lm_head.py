"""On a CPU, log-probabilities only where there is a label, and attention in plain products.

TRL's fused head (trl.trainer.utils.add_fused_lm_head) skips unlabelled positions only where Triton runs. On a CPU it
projects every prompt token to the whole vocabulary, in several passes and once more in the backward: measured on
SmolLM2-135M, 40 % of an SFT step. This puts the same contract in front of it with one plain projection.

The backward of torch's fused attention is slow on a CPU for texts this short: with plain products four steps of 8
traces took 13.1 s of processor time in place of 15.6 (bf16, one thread), their losses alike to two digits.
"""

import contextlib
from collections.abc import Iterator

import torch
from trl.trainer.utils import FusedCausalLMOutput


@contextlib.contextmanager
def _eager(model) -> Iterator[None]:
    """``model`` with attention in plain products, for one pass: decoding is as fast with the fused one."""
    fused = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(fused)


def label_only_head(model, temperature: float = 1.0) -> None:
    """Patch ``model`` (not its PEFT wrapper), once TRL has: ``model(labels=..., fused_lm_head=True)`` returns
    log-probabilities, entropies (nats, both (batch, length - 1)), zero where there is no label."""
    config = model.config.get_text_config()
    rescaled = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")
    if model.device.type != "cpu" or any(getattr(config, name, None) is not None for name in rescaled):
        return
    original = model.forward

    def forward(*args, fused_lm_head=False, labels=None, output_router_logits=None, **kwargs):
        if not fused_lm_head or output_router_logits:
            if output_router_logits is not None:
                kwargs["output_router_logits"] = output_router_logits
            return original(*args, fused_lm_head=fused_lm_head, labels=labels, **kwargs)
        count = kwargs.pop("num_items_in_batch", None)
        with _eager(model):
            hidden = model.base_model(*args, **(kwargs | {"use_cache": False})).last_hidden_state[:, :-1]
        labels = labels[:, 1:]
        mask = labels != -100
        logprobs = torch.log_softmax(model.get_output_embeddings()(hidden[mask]).float() / temperature, dim=-1)
        chosen = logprobs.gather(-1, labels[mask][:, None])[:, 0]
        with torch.no_grad():
            entropy = -(logprobs.exp() * logprobs).sum(-1)
            top = logprobs.argmax(-1) == labels[mask]
        # masked_scatter keeps the output connected to the model even where no label is valid.
        scored = chosen.new_zeros(mask.shape).masked_scatter(mask, chosen)
        return FusedCausalLMOutput(
            loss=-scored.sum() / (mask.sum().clamp(min=1) if count is None else count),
            log_probs=scored,
            entropy=entropy.new_zeros(mask.shape).masked_scatter(mask, entropy),
            is_top1=torch.zeros_like(mask).masked_scatter(mask, top),
            label_mask=mask,
        )

    model.forward = forward
