"""Stage 4: the sft adapter learns from rewards, on problems whose solutions it never saw; the reward is the grader.

One recipe, one reward, two algorithms. Expert iteration samples, keeps what is verified and trains on it
(expert_iteration.py). GRPO trains the adapter further on the difference between a problem's samples (grpo.py).
"""

from pathlib import Path

from pipeline.config import RlSettings
from pipeline.stages.stage import Stage, TrainingContext


def train(context: TrainingContext) -> Path:
    """Train an adapter by the recipe's algorithm; returns its folder."""
    if context.settings.algorithm == "grpo":
        from pipeline.stages.grpo import train_grpo

        return train_grpo(context)

    from pipeline.stages.expert_iteration import train_expert_iteration

    return train_expert_iteration(context)


RL = Stage(
    name="rl",
    number=4,
    help="learn from rewards: expert iteration or GRPO",
    prompt="think",
    compared_to=("sft",),
    settings=RlSettings,
    parent="sft",
    train=train,
)
