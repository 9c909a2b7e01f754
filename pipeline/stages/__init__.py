"""The ladder: the only list of its stages, and of the controls.

A new stage is a file here with a Stage object, its line in STAGES, and a recipe ``recipes/NUMBER_NAME.yaml``.
"""

from collections.abc import Sequence

from data.files import UserError, suggest
from pipeline.stages.adaptive import ADAPTIVE
from pipeline.stages.prompted import COT, PLAIN
from pipeline.stages.rl import RL
from pipeline.stages.sft import SFT
from pipeline.stages.stage import Stage, make_control

STAGES: tuple[Stage, ...] = (
    PLAIN,
    COT,
    SFT,
    RL,
    ADAPTIVE,
)

# Real stages without what they should learn from. What a control gains is not the doing of the stage that it imitates.
CONTROLS: tuple[Stage, ...] = (
    make_control(
        SFT,
        "sft_answers",
        "sft on the answers alone, without steps",
        {"steps": "none"},
    ),
    make_control(
        SFT,
        "sft_shuffled",
        "sft on solutions whose steps are in another order",
        {"steps": "shuffled"},
    ),
    make_control(
        SFT,
        "sft_older",
        "sft on the older solutions; those of logic begin with their answer",
        {"solutions": ["long"]},
    ),
    make_control(
        RL,
        "rl_random_keep",
        "expert iteration that keeps samples by chance",
        {"algorithm": "expert_iteration", "expert_iteration.keep": "random"},
    ),
    make_control(
        RL,
        "rl_first_again",
        "expert iteration that trains as long, on sft's solutions again",
        {"algorithm": "expert_iteration", "expert_iteration.keep": "first"},
    ),
    make_control(
        RL,
        "rl_random_reward",
        "GRPO with a reward by chance",
        {"algorithm": "grpo", "rewards": ["random"], "reward_weights": [1.0]},
    ),
)


def get_stage(name: str) -> Stage:
    """Return a stage or a control by its name."""
    return _find((*STAGES, *CONTROLS), name, "stage")


def list_controls(names: Sequence[str] = ()) -> list[Stage]:
    """Return the controls that are named, or all, each after the stage that it imitates.

    A control says something only beside that stage.
    """
    stages = []
    for name in names or [control.name for control in CONTROLS]:
        control = _find(CONTROLS, name, "control")
        stages += [get_stage(control.section), control]
    # Several imitate one stage.
    return list(dict.fromkeys(stages))


def _find(stages: Sequence[Stage], name: str, kind: str) -> Stage:
    by_name = {stage.name: stage for stage in stages}
    if name not in by_name:
        raise UserError(f"{kind} {name!r} is unknown; {suggest(name, by_name)}")
    return by_name[name]
