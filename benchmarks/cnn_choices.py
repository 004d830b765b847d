"""Which kernel size, which activation, which optimiser? The sequential CNN, measured.

One thing is changed at a time; each choice is trained on the same folds and judged on the
groups that were held out. `docs/models.md` shows the table that this prints.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from models.registry import load
from models.training.config import Config, read_config, with_fold
from models.training.dataset import held_out, training_entries
from models.training.evaluate import score_groups, summarise
from models.training.export import export
from models.training.loop import Training

CONFIG = Path(__file__).parent.parent / "models/training/configs/sequential-cnn.toml"
CHOICES: dict[str, dict[str, dict[str, Any]]] = {
    "kernel 3 × 3, ReLU, Adam": {},
    "kernel 5 × 5": {"network": {"kernel_size": 5}},
    "kernel 7 × 7": {"network": {"kernel_size": 7}},
    "sigmoid": {"network": {"activation": "sigmoid"}},
    "tanh": {"network": {"activation": "tanh"}},
    "GELU": {"network": {"activation": "gelu"}},
    "plain gradient descent": {"training": {"optimiser": "gd", "learning_rate": 0.1}},
    "SGD with momentum": {"training": {"optimiser": "sgd", "learning_rate": 0.02}},
    "AdamW": {"training": {"optimiser": "adamw"}},
}


def changed(config: Config, choice: dict[str, dict[str, Any]]) -> Config:
    params = {**config.network.params, **choice.get("network", {})}
    return config.model_copy(
        update={
            "network": config.network.model_copy(update={"params": params}),
            "training": config.training.model_copy(update=choice.get("training", {})),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=2, help="of five")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = read_config(CONFIG)
    base = base.model_copy(
        update={
            "data": base.data.model_copy(update={"folder": options.data.resolve()}),
            "training": base.training.model_copy(update={"epochs": options.epochs}),
        }
    )
    print("| choice | AUC | accuracy | loss at the end | seconds |")
    print("| --- | --- | --- | --- | --- |")
    for name, choice in CHOICES.items():
        aucs, accuracies, losses, seconds = [], [], [], 0.0
        for fold in range(1, options.folds + 1):
            config = with_fold(changed(base, choice), f"{fold}/5")
            with tempfile.TemporaryDirectory() as folder:
                began = time.process_time()
                training = Training(config, Path(folder))
                network = training.run(Console(quiet=True))
                seconds += time.process_time() - began
                spec = export(network, config, CONFIG.name, Path(folder) / "package")
                held = held_out(training_entries(config), config)
                found = summarise(
                    score_groups(load(spec, device="cpu"), config.data.folder, only=held), spec
                )
            aucs.append(found["auc"])
            accuracies.append(found["accuracy"])
            losses.append(training.history[-1].loss)
        row = [np.mean(aucs), np.mean(accuracies), np.mean(losses)]
        shown = " | ".join(f"{value:.3f}" for value in row)
        print(f"| {name} | {shown} | {seconds / options.folds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
