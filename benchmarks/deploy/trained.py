"""Train networks for a few minutes, to measure accuracy if no published weights are available.

    python -m benchmarks.deploy.trained IMAGES MASKS OUT [--networks ...] [--device cuda]

Each network is trained from random weights, on a folder of photographs and a folder of masks with the same names.
Masks are PNGs with a class id per pixel; 255 or the highest id is void. All files have one size, as in CamVid. The
networks are far less accurate than published ones, but their weights and activations are not random.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import segnets
from benchmarks.deploy.candidates import NETWORKS
from benchmarks.deploy.files import channels_last
from segnets.preprocessing import Preprocessing

_CROP = (256, 352)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SUFFIXES = (".jpg", ".jpeg", ".png")


def pixels_in(folder: Path) -> Tensor:
    """Read all images of a folder in the order of their names: (N, H, W) or (N, H, W, 3) uint8."""
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise SystemExit(f"{folder}: no images ({', '.join(_SUFFIXES)}) in it")
    return torch.from_numpy(np.stack([np.array(Image.open(path)) for path in paths]))


def train(network: str, images: Tensor, masks: Tensor, *, classes: int, steps: int, batch: int) -> torch.nn.Module:
    """Train a network.

    Args:
        network: Name of the network.
        images: Images, (N, H, W, 3) uint8, on the device to train on.
        masks: Class ids, (N, H, W) uint8, on the same device. Pixels of class `classes` are ignored.
        classes: Number of classes.
        steps: Number of optimizer steps.
        batch: Number of images in a batch.

    Returns:
        The trained network in eval mode.
    """
    torch.manual_seed(0)
    device = images.device
    model = channels_last(segnets.create_model(network, num_classes=classes).to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps)
    mean, std = (torch.tensor(each, device=device).view(1, 3, 1, 1) for each in (_MEAN, _STD))
    model.train()
    for _ in range(steps):
        chosen = torch.randint(len(images), (batch,), device=device)
        top, left = (int(torch.randint(images.shape[axis] - _CROP[axis - 1] + 1, ())) for axis in (1, 2))
        window = (chosen, slice(top, top + _CROP[0]), slice(left, left + _CROP[1]))
        x = ((images[window].permute(0, 3, 1, 2).float() / 255 - mean) / std).contiguous(
            memory_format=torch.channels_last
        )
        labels = masks[window].long()
        if torch.rand(()) < 0.5:
            x, labels = x.flip(3), labels.flip(2)
        with torch.autocast(device.type, torch.bfloat16):
            logits = model(x)["out"]
        loss = F.cross_entropy(logits.float(), labels, ignore_index=classes)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("masks", type=Path)
    parser.add_argument("out", type=Path, help="folder to write the weights to")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args()
    images, masks = (pixels_in(folder).to(options.device) for folder in (options.images, options.masks))
    if (masks == 255).any():
        masks[masks == 255] = masks[masks < 255].max() + 1
    classes = int(masks.max())
    options.out.mkdir(parents=True, exist_ok=True)
    for network in options.networks:
        start = time.monotonic()
        model = train(network, images, masks, classes=classes, steps=options.steps, batch=options.batch)
        # Images keep their size, as in training.
        preprocessing = Preprocessing(resize="none")
        segnets.save(model.cpu(), options.out / f"{network}.safetensors", preprocessing=preprocessing)
        print(f"{network}: {options.steps} steps, {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
