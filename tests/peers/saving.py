"""Ways to save a network: training checkpoints, wrapped networks, folders, C++ archives."""

from __future__ import annotations

import argparse
import functools
import importlib
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.weights_tools.cpp_archive import build as cpp_archive

Names = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


def _optimizer(module: nn.Module) -> torch.optim.Optimizer:
    """Return an optimizer after one step, with a momentum for every parameter."""
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def _scheduler(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return torch.optim.lr_scheduler.PolynomialLR(optimizer, 30).state_dict()


def torchvision_script(module: nn.Module, folder: Path) -> Path:
    """Save as torchvision's references/segmentation/train.py."""
    optimizer = _optimizer(module)
    checkpoint = {
        "model": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": _scheduler(optimizer),
        "epoch": 3,
        "args": argparse.Namespace(model="fcn_resnet50", lr=0.02, output_dir=folder.name, aux_loss=True),
    }
    torch.save(checkpoint, folder / "model_3.pth")
    return folder / "model_3.pth"


def vainf(module: nn.Module, folder: Path) -> Path:
    """Save as main.py of VainF/DeepLabV3Plus-Pytorch, whose best score is a NumPy scalar."""
    optimizer = _optimizer(module)
    checkpoint = {
        "cur_itrs": 30000,
        "model_state": nn.DataParallel(module).module.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "scheduler_state": _scheduler(optimizer),
        "best_score": np.float64(0.7123),
    }
    torch.save(checkpoint, folder / "best_deeplab_voc_os16.pth")
    return folder / "best_deeplab_voc_os16.pth"


def timm_saver(module: nn.Module, folder: Path) -> Path:
    """Save with timm.utils.CheckpointSaver, as timm's train.py."""
    utils: Any = importlib.import_module("timm.utils")
    saver = utils.CheckpointSaver(
        module,
        _optimizer(module),
        args=argparse.Namespace(model="resnet18", lr=0.1),
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
    )
    saver.save_checkpoint(1, metric=0.5)
    return folder / "last.pth.tar"


def timm_hub(module: nn.Module, folder: Path) -> Path:
    """Save with timm.models.save_for_hf: a folder with model.safetensors and config.json."""
    from timm.models import save_for_hf

    save_for_hf(module, str(folder / "hub"), safe_serialization=True)
    return folder / "hub" / "model.safetensors"


def pretrained(module: Any, folder: Path) -> Path:
    """Save with transformers' save_pretrained: a folder with model.safetensors and config.json."""
    module.save_pretrained(folder / "hub")
    return folder / "hub" / "model.safetensors"


def data_parallel(module: nn.Module, folder: Path) -> Path:
    torch.save({"epoch": 3, "state_dict": nn.DataParallel(module).state_dict()}, folder / "w.pth")
    return folder / "w.pth"


def compiled(module: nn.Module, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.compile uses deprecated TorchScript
        wrapped = torch.compile(module)
    torch.save(wrapped.state_dict(), folder / "w.pth")  # type: ignore[attr-defined]
    return folder / "w.pth"


def lightning(module: nn.Module, folder: Path) -> Path:
    """Save with Lightning's Trainer after one step; the loss has a buffer of its own."""
    from lightning.pytorch import LightningModule, Trainer

    class Segmentation(LightningModule):
        def __init__(self, learning_rate: float) -> None:  # noqa: ARG002
            super().__init__()
            self.save_hyperparameters()
            self.model = module
            self.loss = nn.CrossEntropyLoss(weight=torch.ones(7))

        def training_step(self, batch: list[Tensor]) -> Tensor:
            images, labels = batch
            loss: Tensor = self.loss(self.model(images), labels)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.model.parameters(), lr=self.hparams["learning_rate"], momentum=0.9)

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    images, labels = torch.randn(2, 3, 64, 64), torch.randint(0, 7, (2, 64, 64))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=2)
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on workers and logging
        trainer = Trainer(max_steps=1, accelerator="cpu", devices=1, default_root_dir=folder, **quiet)
        trainer.fit(Segmentation(1e-3), data)
    trainer.save_checkpoint(folder / "epoch=0-step=1.ckpt")
    return folder / "epoch=0-step=1.ckpt"


def mmengine(module: nn.Module, folder: Path) -> Path:
    """Save as the Runner of mmengine 0.10, with the history of a loss."""
    from mmengine.logging import MessageHub
    from mmengine.runner import save_checkpoint
    from mmengine.runner.checkpoint import get_state_dict, weights_to_cpu

    hub = MessageHub.get_instance(f"conversion of {folder}")
    for loss in (1.5, 1.25):
        hub.update_scalar("train/loss", loss)
    hub.update_info("iter", 2)
    optimizer = _optimizer(module)
    meta = {
        "mmseg_version": "1.2.2",
        "mmengine_version": "0.10.7",
        "dataset_meta": {"classes": tuple("abcdefg"), "palette": [[i, i, i] for i in range(7)]},
        "cfg": "model = dict(type='EncoderDecoder')",
        "seed": 0,
        "experiment_name": "fcn",
        "time": "20260101_000000",
        "epoch": 0,
        "iter": 2,
    }
    checkpoint = {
        "meta": meta,
        "state_dict": weights_to_cpu(get_state_dict(module)),
        "message_hub": hub.state_dict(),
        "optimizer": optimizer.state_dict(),
        "param_schedulers": [_scheduler(optimizer)],
    }
    save_checkpoint(checkpoint, str(folder / "iter_2.pth"))
    return folder / "iter_2.pth"


def mmcv(module: nn.Module, folder: Path) -> Path:
    """Save as mmsegmentation 0.x did."""
    meta = {"mmseg_version": "0.30.0", "CLASSES": tuple("abcdefg"), "PALETTE": [[0, 0, 0]] * 7, "config": "model = 1"}
    checkpoint = {"meta": meta, "state_dict": module.state_dict(), "optimizer": _optimizer(module).state_dict()}
    torch.save(checkpoint, folder / "iter_80000.pth")
    return folder / "iter_80000.pth"


@functools.cache
def _program() -> Path:
    return cpp_archive.build()


def cpp(names: Names) -> Callable[[nn.Module, Path], Path]:
    """Save with torch::save of a C++ program whose modules have the names in `names`."""

    def save(module: nn.Module, folder: Path) -> Path:
        return cpp_archive.torch_save(_program(), names(module.state_dict()), folder / "cpp.pt")

    return save
