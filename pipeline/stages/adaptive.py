"""Stage 5: the model learns on which problems thinking pays (pipeline/choice.py)."""

from pathlib import Path

from pipeline.settings import AdaptiveSettings
from pipeline.stages.stage import Stage, TrainingContext

# Adapters on the way from the parent's weights to the trained ones that are tried on dev.
LOOKS = 5


def train(context: TrainingContext) -> Path:
    """Train the adapter of this stage; returns its folder."""
    from pipeline.stages.adaptive_training import AdaptiveTraining

    return AdaptiveTraining(context).run()


ADAPTIVE = Stage(
    name="adaptive",
    number=5,
    help="learn on which problems thinking pays",
    prompt="think",
    compared_to=("rl",),
    settings=AdaptiveSettings,
    parent="rl",
    train=train,
)
