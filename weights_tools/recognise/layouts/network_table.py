"""Rows of `layouts.tables`: networks and backbones of another project in terms of segnets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from segnets.card import JSON
from weights_tools.recognise.layouts.key_map import KeyMap


@dataclass(frozen=True)
class BackboneTable:
    """One kind of backbone under the names of a project.

    Attributes:
        signature: Tensor that identifies the backbone.
        keys: Names of its modules; ours begin with "backbone.".
        required: Options that the backbone needs, in addition to those of the network.
        average_downsample: Value of the option `downsample` if the shortcuts pool.
        flattened: See `Match.flattened`.
        min_stages: Number of a ResNet's stages that must be present. Projects that keep unused stages have 4.
    """

    signature: str
    keys: KeyMap
    required: Mapping[str, JSON] = field(default_factory=dict)
    average_downsample: str = "average"
    flattened: tuple[str, ...] = ()
    min_stages: int = 4


@dataclass(frozen=True)
class NetworkTable:
    """One network of a project, in terms of segnets.

    Attributes:
        name: Name of the network in the project.
        signature: Tensor that identifies the network.
        head: Name of the head in segnets, or "" for a classifier.
        backbones: Backbones that the project offers for this network.
        keys: Names of the head's modules.
        last_layer: Our name of the layer that computes the logits.
        required: Options that make the segnets network equivalent.
        choices: Options that users of the project can choose and that the weights do not determine, with the project's
            defaults. None stands for our default.
        unused: Modules of the project that a segmentation network never runs.
        unique: Whether no other project has these names. Otherwise the layout must be requested.
        look_alikes: Networks of the project with the same names and shapes but other outputs, by our backbone name, or
            by "" for every backbone. The tensors cannot tell them apart, so a note mentions them.
    """

    name: str
    signature: str
    head: str
    backbones: Sequence[BackboneTable]
    keys: KeyMap
    last_layer: str
    required: Mapping[str, JSON] = field(default_factory=dict)
    choices: Mapping[str, JSON] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    unique: bool = True
    look_alikes: Mapping[str, str] = field(default_factory=dict)

    def look_alike_notes(self, backbone: str) -> tuple[str, ...]:
        """Return a note that lists the look-alikes on a backbone, if there are any."""
        found = [what for name, what in self.look_alikes.items() if name in ("", backbone)]
        if not found:
            return ()
        return (f"{'; '.join(found)} has the same names and shapes but computes something else. Check with --golden",)
