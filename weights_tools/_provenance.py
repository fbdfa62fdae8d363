"""Model cards of converted files: facts from the source, the origin of the weights, and the checks they passed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

import segnets
from segnets.card import JSON, PREPARATION, Decoding, ModelCard, ModelConfig
from segnets.catalog import CATALOG, Published
from segnets.errors import WeightsError
from segnets.registry import BACKBONES
from segnets.segmenter import channels_differ
from segnets.weights.geometry import other_geometry
from weights_tools._text import printable
from weights_tools.extract.state_dict import StateDict
from weights_tools.reader import Container, TensorReader
from weights_tools.recognise import PREPROCESSING, Recognised, SourceConfig

# torchvision and torch.hub put the first digits of the sha256 into file names.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8})\.(?:pth|pt|safetensors)(?!\.index)")
_LARGEST_MEAN = 2.0  # largest mean for pixels in 0..1; larger ones are for 0..255
# Keys of provenance["proof"]: tensor checks, golden file, comparisons with projects' own networks.
_TENSORS, _GOLDEN, _COMPARED = "tensors", "golden", "compared"


def hash_in_name(path: Path) -> str | None:
    """Return the first eight digits of the sha256 in a file name, or None."""
    found = _HASH_IN_NAME.search(path.name)
    return found[1] if found else None


def find_published(path: Path, sha256: str | None, config: ModelConfig) -> Published | None:
    """Return the published file with this hash, if `config` is its network.

    Args:
        path: File whose name must not be that of another published file.
        sha256: Hash of the file; None to go by its name.
        config: Recognised network.

    Raises:
        WeightsError: If the file has the full name of a published file but different content.
    """
    for row in CATALOG:
        named = row.file == path.name
        if named if sha256 is None else sha256.startswith(row.sha256 or row.hash_prefix):
            if row.model == config.name and not other_geometry(config, row.config(), ""):
                return row
        elif named and sha256 is not None:
            raise WeightsError(
                f"the file has the name of a published file, but its sha256 begins with {sha256[:8]}, not "
                f"{row.hash_prefix}. The file is damaged, or is a different one. Download it again, or rename your own "
                "file."
            )
    return None


def described_card(found: Recognised, published: Published | None, reader: TensorReader) -> tuple[ModelCard, str]:
    """Return the classes, preprocessing and decoding of a recognised file, with a record of what is assumed.

    Args:
        found: Recognised network.
        published: Catalog row, if the file is a published one.
        reader: Reader of its tensors.

    Returns:
        The card, without provenance of the tensors unless segnets wrote the file; and a note on the origin of mean and
        standard deviation, or an empty string.
    """
    if found.card is not None:
        return found.card, ""
    if published is not None:
        return published.card(), ""
    card = _card_of_config(found)
    if found.source_config is not None and "mean" in found.source_config.preprocessing:
        return card, ""
    return _with_normalisation(card, found.state, reader)


def other_channels(config: ModelConfig, card: ModelCard) -> str:
    """Return a sentence that explains why a preprocessing does not suit the network's images, or ""."""
    channels = config.options.get("in_channels", 3)
    if config.name in BACKBONES or not isinstance(channels, int):
        return ""
    return channels_differ(channels, card.preprocessing)


def _card_of_config(found: Recognised) -> ModelCard:
    """Return the card implied by the source project's own config file, if there is one, and by its scripts."""
    config, count = found.source_config or SourceConfig(""), found.match.config.options.get("num_classes")
    channels = count if isinstance(count, int) else 0
    decoding = config.decoding if config.decoding is not None and config.decoding.fits(channels) else None
    count = (decoding or Decoding.default(channels)).ids(channels)
    named = len(config.classes) == count
    usual = PREPROCESSING[config.project or found.match.layout]
    card = ModelCard(
        classes=config.classes if named else (),
        palette=config.palette if named and len(config.palette) == count else (),
        preprocessing=replace(usual, **config.preprocessing),
        decoding=decoding,
    )
    if found.match.config.name in BACKBONES:  # segnets prepares no images for classifiers
        return card
    return card.assuming(name for name in PREPARATION if name not in config.preprocessing)


def _with_normalisation(card: ModelCard, state: StateDict, reader: TensorReader) -> tuple[ModelCard, str]:
    """Return the card with the mean and standard deviation that the training program keeps as buffers, and a note."""
    if state.normalisation is None:
        return card, ""
    mean, std = (_numbers(reader.read("the normalisation", ref)) for ref in state.normalisation)
    scale, what = 1.0, "mean and std of the images are those of the checkpoint's buffers"
    if max(*mean, *std) > _LARGEST_MEAN:
        scale, what = 255.0, f"{what}, divided by 255"
    try:
        values: dict[str, Any] = {
            name: tuple(round(each / scale, 6) for each in each_of) for name, each_of in (("mean", mean), ("std", std))
        }
        return card.preparing(replace(card.preprocessing, **values), values), what
    except (ValueError, TypeError) as error:
        return card, f"mean and std of the images in the checkpoint's buffers are not used: {error}"


def _numbers(tensor: Tensor) -> tuple[float, ...]:
    return tuple(float(each) for each in tensor.double().flatten())


def new_card(
    path: Path,
    sha256: str,
    container: Container,
    found: Recognised,
    published: Published | None,
    differences: ValueChanges,
) -> ModelCard:
    """Return the card of weights that were converted from another project's file."""
    match = found.match
    provenance: dict[str, JSON] = {
        "layout": match.layout,
        "layout_version": match.version,
        "geometry": dict(match.geometry),
        "container": container.kind,
        "source_file": printable(path.name, quote=False),
        "source_sha256": sha256,
        "tool": f"weights_tools of segnets {segnets.__version__}",
        "proof": {_TENSORS: differences.summary()},
        **_unwrapped(found.state),
        **differences.changes(),
    }
    if published is None:
        return ModelCard(provenance=provenance)
    card = published.card()
    known = dict(card.provenance)
    if differences.changed:  # no longer the published weights
        known["made_of"] = known.pop("published_as")
    return replace(card, provenance={**known, **provenance})


def updated_card(card: ModelCard, differences: ValueChanges) -> ModelCard:
    """Return the card of a converted segnets file. Checks of the source are dropped if its tensors were changed."""
    changes = differences.changes()
    if not changes:
        return card
    derived = card.derived()
    return replace(derived, provenance={**derived.provenance, **changes})


def with_checks(
    card: ModelCard, *, golden: dict[str, JSON] | None = None, compared: Mapping[str, dict[str, JSON]] | None = None
) -> ModelCard:
    """Return the card with records of checks added. A new record replaces one of the same kind and project.

    Args:
        card: Card to extend.
        golden: Record of a golden file.
        compared: Records of comparisons with projects' own networks, by project.
    """
    proof = _proof(card)
    if golden is not None:
        proof[_GOLDEN] = golden
    if compared:
        older = proof.get(_COMPARED)
        proof[_COMPARED] = {**(older if isinstance(older, dict) else {}), **compared}
    if golden is None and not compared:
        return card
    return replace(card, provenance={**card.provenance, "proof": proof})


def _proof(card: ModelCard) -> dict[str, JSON]:
    known = card.provenance.get("proof")
    if isinstance(known, str):  # version 0.1 only wrote the tensor checks
        return {_TENSORS: known}
    return dict(known) if isinstance(known, dict) else {}


@dataclass(frozen=True)
class ValueChanges:
    """Differences between the written values and the source's. Every tensor is compared after writing.

    Attributes:
        zeroed: Number of batch norm counters that the source lacks.
        reshaped: Number of batch norm counters that were not int64 scalars.
        cast: Requested dtype, or None.
        changed: Descriptions of requested edits.
    """

    zeroed: int = 0
    reshaped: int = 0
    cast: str | None = None
    changed: tuple[str, ...] = ()

    def changes(self) -> dict[str, JSON]:
        """Return the differences as provenance entries."""
        made: dict[str, JSON] = {
            "counters_set_to_0": self.zeroed,
            "counters_made_int64": self.reshaped,
            "cast_to": self.cast,
            "changed": list(self.changed),
        }
        return {name: change for name, change in made.items() if change}

    def summary(self) -> str:
        """Return the differences in one sentence."""
        done = "renamed only; every tensor byte-equal to the source's"
        if self.cast is not None:
            done = f"cast to {self.cast}"
        exceptions = list(self.changed)
        if self.zeroed:
            exceptions.append(f"{self.zeroed} absent batch norm counters set to 0")
        if self.reshaped:
            exceptions.append(f"{self.reshaped} batch norm counters converted to int64")
        return f"{done}, except: {' and '.join(exceptions)}" if exceptions else done


def _unwrapped(state: StateDict) -> dict[str, JSON]:
    taken: dict[str, JSON] = {
        "key": ".".join(state.path),
        "stripped": "".join(state.stripped),
        "dropped": list(state.dropped),
    }
    return {name: what for name, what in taken.items() if what}
