"""The trainer that nnU-Net runs for an arm; copied beside the arm's data and found through nnUNet_extTrainer.

Only nnU-Net's subprocess imports this file. What to spend stands in the plans under "gem3d" (an `ArmSpec`).
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from gem3d_core.machine.files import atomic


class Gem3dTrainer(nnUNetTrainer):  # type: ignore[misc]  # the base class is untyped
    """nnU-Net's trainer with its length, mirroring and seed set by the arm."""

    # the parent reads its arguments by these names to rebuild the trainer from a checkpoint
    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - the parent's default
    ) -> None:
        """Take the arm's values out of the plans."""
        self.arm = plans["gem3d"]
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_iterations_per_epoch = self.arm["iterations"]
        self.num_epochs = self.arm["epochs"]
        self.save_every = self.arm["save_every"]
        self.num_val_iterations_per_epoch = 1  # of training cases (fold `all`): says nothing, but is logged
        self._seed(-1)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802
        """The parent's choice, without mirroring where the arm has none."""
        rotation, dummy_2d, patch, axes = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        if self.arm["mirroring"]:
            return rotation, dummy_2d, patch, axes
        self.inference_allowed_mirroring_axes = None
        return rotation, dummy_2d, patch, ()

    def on_train_start(self) -> None:
        """Draw nothing for a picture of the losses each epoch: it costs more than a short epoch."""
        super().on_train_start()
        self.logger.plot_progress_png = _no_picture

    def on_train_epoch_start(self) -> None:
        """Seed each epoch by its number, so that a resumed training draws what the uninterrupted one would."""
        self._seed(self.current_epoch)
        super().on_train_epoch_start()

    def save_checkpoint(self, filename: str) -> None:
        """Replace the checkpoint as a whole: a kill or a power cut leaves the old one."""
        if self.local_rank == 0 and not self.disable_checkpointing:
            with atomic(Path(filename)) as building:
                super().save_checkpoint(str(building))

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:  # noqa: FBT001, FBT002
        """Nothing: fold `all` would validate on its training cases; the test split is predicted afterwards."""
        del save_probabilities

    def _seed(self, epoch: int) -> None:
        seed = (self.arm["seed"] * 1_000_003 + epoch + 1) % 2**32
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - nnU-Net's loaders draw from the global generator
        torch.manual_seed(seed)


def _no_picture(output_folder: str) -> None:
    del output_folder
