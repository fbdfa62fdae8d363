"""Catalog of the weights that torchvision publishes for these networks. Nothing is downloaded here.

The numbers are those in the weight classes of torchvision 0.28 (a test compares them). torchvision's code is
BSD-3-Clause; its pages give no licence for the weights, or for the images of COCO and ImageNet.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass

from segnets.card import ModelCard, ModelConfig

VOC_CLASSES = (
    "__background__",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

_FOLDER = "https://download.pytorch.org/models/"
_SOURCE = "https://docs.pytorch.org/vision/0.28/models.html"


@dataclass(frozen=True)
class Published:
    """A published weights file.

    Attributes:
        model: Name of the network or backbone.
        name: Name of the weights for `weights=`.
        file: File name, which contains the first eight hex digits of the sha256.
        num_params: Number of parameters, including an auxiliary classifier's.
        dataset: Data set on which `metrics` were measured.
        metrics: Metric -> value in percent.
        sha256: All 64 hex digits, or None if the file has not been seen.
        classes: Name of each class id; empty for a classifier.
        licence: Licence of the weights.
        source: Page with these facts.
    """

    model: str
    name: str
    file: str
    num_params: int
    dataset: str
    metrics: Mapping[str, float]
    sha256: str | None = None
    classes: tuple[str, ...] = ()
    licence: str = "not stated by the publisher"
    source: str = _SOURCE

    @property
    def url(self) -> str:
        """Address of the file."""
        return _FOLDER + self.file

    @property
    def hash_prefix(self) -> str:
        """First eight hex digits of the sha256."""
        return self.file.removesuffix(".pth").rpartition("-")[2]

    def config(self) -> ModelConfig:
        """Return the config of the weights' network, with default geometry."""
        if not self.classes:  # a classifier
            return ModelConfig(self.model, {"num_classes": 1000})
        return ModelConfig(
            self.model, {"num_classes": len(self.classes), "aux_loss": not self.model.startswith("lraspp")}
        )

    def card(self) -> ModelCard:
        """Return the card of the weights."""
        provenance = {
            "layout": "torchvision",
            "published_as": f"{self.model} {self.name}",
            "source_file": self.file,
            "licence": self.licence,
        }
        return ModelCard(classes=self.classes, provenance=dict(provenance))


def _coco(model: str, file: str, num_params: int, miou: float, pixel_accuracy: float) -> Published:
    """Return a row for weights trained on the images of COCO with the 20 classes of PASCAL VOC."""
    metrics = {"mIoU": miou, "pixel accuracy": pixel_accuracy}
    name = "COCO_WITH_VOC_LABELS_V1"
    return Published(model, name, file, num_params, "COCO val2017, VOC labels, 520", metrics, classes=VOC_CLASSES)


def _imagenet(
    model: str, version: int, file: str, num_params: int, top1: float, top5: float, sha256: str | None = None
) -> Published:
    metrics = {"top-1 accuracy": top1, "top-5 accuracy": top5}
    return Published(model, f"IMAGENET1K_V{version}", file, num_params, "ImageNet-1K", metrics, sha256)


CATALOG: tuple[Published, ...] = (
    _coco("fcn_resnet50", "fcn_resnet50_coco-1167a1af.pth", 35_322_218, 60.5, 91.4),
    _coco("fcn_resnet101", "fcn_resnet101_coco-7ecb50ca.pth", 54_314_346, 63.7, 91.9),
    _coco("deeplabv3_resnet50", "deeplabv3_resnet50_coco-cd0a2569.pth", 42_004_074, 66.4, 92.4),
    _coco("deeplabv3_resnet101", "deeplabv3_resnet101_coco-586e9e4e.pth", 60_996_202, 67.4, 92.4),
    _coco("deeplabv3_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large-fc3c493d.pth", 11_029_328, 60.3, 91.2),
    _coco("lraspp_mobilenet_v3_large", "lraspp_mobilenet_v3_large-d234d4ea.pth", 3_221_538, 57.9, 91.2),
    _imagenet("resnet18", 1, "resnet18-f37072fd.pth", 11_689_512, 69.758, 89.078),
    _imagenet("resnet34", 1, "resnet34-b627a593.pth", 21_797_672, 73.314, 91.42),
    _imagenet("resnet50", 1, "resnet50-0676ba61.pth", 25_557_032, 76.13, 92.862),
    _imagenet("resnet50", 2, "resnet50-11ad3fa6.pth", 25_557_032, 80.858, 95.434),
    _imagenet("resnet101", 1, "resnet101-63fe2227.pth", 44_549_160, 77.374, 93.546),
    _imagenet("resnet101", 2, "resnet101-cd907fc2.pth", 44_549_160, 81.886, 95.78),
    _imagenet("resnet152", 1, "resnet152-394f9c45.pth", 60_192_808, 78.312, 94.046),
    _imagenet("resnet152", 2, "resnet152-f82ba261.pth", 60_192_808, 82.284, 96.002),
    _imagenet("resnext50_32x4d", 1, "resnext50_32x4d-7cdf4587.pth", 25_028_904, 77.618, 93.698),
    _imagenet("resnext50_32x4d", 2, "resnext50_32x4d-1a0047aa.pth", 25_028_904, 81.198, 95.34),
    _imagenet("resnext101_32x8d", 1, "resnext101_32x8d-8ba56ff5.pth", 88_791_336, 79.312, 94.526),
    _imagenet("resnext101_32x8d", 2, "resnext101_32x8d-110c445d.pth", 88_791_336, 82.834, 96.228),
    _imagenet("resnext101_64x4d", 1, "resnext101_64x4d-173b62eb.pth", 83_455_272, 83.246, 96.454),
    _imagenet("wide_resnet50_2", 1, "wide_resnet50_2-95faca4d.pth", 68_883_240, 78.468, 94.086),
    _imagenet("wide_resnet50_2", 2, "wide_resnet50_2-9ba9bcbe.pth", 68_883_240, 81.602, 95.758),
    _imagenet("wide_resnet101_2", 1, "wide_resnet101_2-32ee1156.pth", 126_886_696, 78.848, 94.284),
    _imagenet("wide_resnet101_2", 2, "wide_resnet101_2-d733dc28.pth", 126_886_696, 82.51, 96.02),
    _imagenet(
        "mobilenet_v3_small",
        1,
        "mobilenet_v3_small-047dcff4.pth",
        2_542_856,
        67.668,
        87.402,
        sha256="047dcff4addef86ea5bc2eff13c9614dc11f47ab1160d0a71a25e7db994f4e1f",
    ),
    _imagenet("mobilenet_v3_large", 1, "mobilenet_v3_large-8738ca79.pth", 5_483_032, 74.042, 91.34),
    _imagenet("mobilenet_v3_large", 2, "mobilenet_v3_large-5c1a4163.pth", 5_483_032, 75.274, 92.566),
)


def published_for(model: str) -> list[Published]:
    """Return the files published for a network or backbone, oldest first."""
    return [row for row in CATALOG if row.model == model]


def find_published(source: object, model: str) -> Published | None:
    """Find the published weights that a `weights=` argument refers to.

    Args:
        source: "COCO_WITH_VOC_LABELS_V1", "DEFAULT" (the newest), "FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1", or a
            member of torchvision's weights enum for `model`.
        model: Name of the network or backbone.

    Returns:
        The row of the catalog, or None if `source` does not name one.
    """
    if isinstance(source, enum.Enum):
        source = f"{type(source).__name__}.{source.name}"
    if not isinstance(source, str) or os.sep in source:
        return None
    owner, _, name = source.rpartition(".")
    if owner and owner.lower() != f"{model}_weights":
        return None
    rows = published_for(model)
    if name == "DEFAULT" and rows:
        return rows[-1]
    return next((row for row in rows if row.name == name), None)
