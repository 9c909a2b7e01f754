"""The files of LoRA adapters: what was trained, and mixtures of two."""

import re
import shutil
from pathlib import Path

import torch
from peft.utils import CONFIG_NAME
from safetensors.torch import load_file, save_file

from data.files import make_folder
from pipeline import processes
from pipeline.stage_dir import ADAPTER_WEIGHTS


def save_adapter(model, folder: Path) -> Path:
    """Write the trained weights of a model, whole; returns the folder, which is never seen half written."""
    weights = processes.collect_trained_weights(model)

    def save() -> None:
        aside = folder.with_name(f"{folder.name}.new")
        # A kill may have left either.
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(aside, state_dict=weights)
        aside.rename(folder)

    processes.on_main_process(save)
    return folder


def freeze_first_layers(model, last_layers: int) -> None:
    """Leave an adapter trainable in the model's last layers only."""
    first_trained = model.config.get_text_config().num_hidden_layers - last_layers
    for name, weights in model.named_parameters():
        # The first number in a name is that of the layer.
        layer = re.search(r"\.(\d+)\.", name)
        if layer and int(layer[1]) < first_trained:
            weights.requires_grad = False


def mix_adapters(
    first: Path,
    second: Path,
    share: float,
    folder: Path,
) -> Path:
    """Write the adapter that lies a share of the way from one to another; returns its folder.

    Args:
        first: The folder of the adapter at 0.
        second: That at 1, of the same shape.
        share: Between 0 and 1.
        folder: Where it is written.

    Source: WiSE-FT, arXiv 2109.01903, section 3, for weights between those before and after a fine-tuning.
    """
    before = load_file(first / ADAPTER_WEIGHTS)
    after = load_file(second / ADAPTER_WEIGHTS)
    mixed = {name: torch.lerp(before[name], after[name], share) for name in before}

    make_folder(folder)
    shutil.copyfile(second / CONFIG_NAME, folder / CONFIG_NAME)
    save_file(mixed, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    return folder
