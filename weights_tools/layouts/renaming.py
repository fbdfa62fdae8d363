"""Layouts that are tables: what a tensor's name begins with in another project, and what takes its place in ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from segnets.card import JSON, ModelConfig
from segnets.registry import MODELS
from weights_tools.layouts.base import Match, Tensors
from weights_tools.layouts.resnet import describe_resnet, resnet_variants
from weights_tools.names import listed, shown

# A regular expression for the beginning of a name -> ours.
Table = Mapping[str, str]


@dataclass(frozen=True)
class Origin:
    """One network of another project, in terms of ours.

    signature: a tensor that this network alone has. head: ours; table: how its tensors are called here.
    last: our name of the convolution that gives the scores.
    required: the options under which ours computes the same.
    open: what no tensor shows and people choose, with the project's own default; None is our default.
    """

    name: str
    signature: str
    head: str
    table: Table
    last: str
    required: Mapping[str, JSON] = field(default_factory=dict)
    open: Mapping[str, JSON] = field(default_factory=dict)


def rename(tensors: Tensors, table: Table) -> tuple[dict[str, str], list[str]]:
    """Return ours -> theirs, and the names that the table does not know.

    Raises ValueError if two tensors would get one name: a mistake in the table, not in a file.
    """
    names: dict[str, str] = {}
    unknown: list[str] = []
    for theirs in tensors:
        pattern = next((pattern for pattern in table if re.match(pattern, theirs)), None)
        if pattern is None:
            unknown.append(theirs)
            continue
        ours = re.sub(f"^(?:{pattern})", table[pattern], theirs)
        if ours in names:
            raise ValueError(f"{names[ours]} and {theirs} both become {ours}")
        names[ours] = theirs
    return names, unknown


@dataclass(frozen=True)
class OriginLayout:
    """See `weights_tools.layouts.base.Layout`. project: what people call it; basic_block_dilation: its convention."""

    name: str
    project: str
    origins: tuple[Origin, ...]
    basic_block_dilation: str = "both"
    version: int = 1

    def recognise(self, tensors: Tensors, chosen: Mapping[str, JSON]) -> Match | str | None:
        origin = next((origin for origin in self.origins if origin.signature in tensors), None)
        if origin is None:
            return None
        what = f"a {origin.name} of {self.project}"
        names, unknown = rename(tensors, origin.table)
        if unknown:
            return f"it looks like {what}, with tensors that have no place here: {listed(map(shown, unknown), 3)}"
        ours = {new: tensors[old] for new, old in names.items()}
        body = describe_resnet(ours, "backbone.", variants=True)
        if body is None or body[1]:
            encoder = body[1] if body else "an encoder that is no ResNet"
            return f"it looks like {what} on {encoder}, which can't be converted so far"
        last = ours.get(f"{origin.last}.weight")
        if last is None or len(last.shape) != 4:
            return f"it looks like {what}, but {origin.last!r} (as it is called here) gives no scores"
        model = f"{origin.head}_{body[0]}"
        options: dict[str, JSON] = {
            "num_classes": last.shape[0],
            "head_channels": last.shape[1],
            "aux_loss": any(name.startswith("aux_classifier.") for name in ours),
            **resnet_variants(ours, "backbone."),
            **_shown_by_head(ours),
        }
        return self._match(origin, model, options, names, chosen)

    def _match(
        self,
        origin: Origin,
        model: str,
        options: dict[str, JSON],
        names: dict[str, str],
        chosen: Mapping[str, JSON],
    ) -> Match | str:
        fixed = [name for name in chosen if name not in origin.open]
        if fixed:
            return (
                f"of a {origin.name} of {self.project} the option {fixed[0]} is not open: the tensors show it, or the "
                f"project has one value; open are {', '.join(origin.open) or 'none'}"
            )
        other = [name for name in chosen if name in options and options[name] != chosen[name]]
        if other:
            return (
                f"{other[0]}={chosen[other[0]]} was given, but its tensors are those of {other[0]}={options[other[0]]}"
            )
        builder = MODELS[model]
        wanted = {"output_stride": None, **origin.open, **chosen, **origin.required}
        wanted["basic_block_dilation"] = self.basic_block_dilation
        for name, value in wanted.items():
            if value is not None and name not in options and name in builder.applicable(options):
                options[name] = value
        settled = builder.settle(options)
        taken = {name: settled[name] for name in origin.open if name in settled and name not in chosen}
        notes: tuple[str, ...] = ()
        if taken:
            values = ", ".join(f"{name}={value}" for name, value in taken.items())
            notes = (
                f"no tensor shows {values}; these are {self.project}'s defaults, --option NAME=VALUE says otherwise",
            )
        unused = [name for name in names if not _is_used(name, settled)]
        kept = {name: theirs for name, theirs in names.items() if name not in unused}
        geometry = {name: settled[name] for name in (*origin.required, *origin.open) if name in settled}
        config = ModelConfig(model, settled)
        return Match(
            self.name, self.version, config, kept, geometry, notes, unused=tuple(names[name] for name in unused)
        )


def _shown_by_head(ours: Tensors) -> dict[str, JSON]:
    """Options of the head that its shapes show."""
    options: dict[str, JSON] = {}
    for aspp in ("classifier.0.", "classifier.aspp."):
        if f"{aspp}project.0.weight" in ours:
            options["aspp_separable"] = f"{aspp}convs.1.0.0.weight" in ours
    reading = ("classifier.0.convs.0.0.weight", "classifier.aspp.convs.0.0.weight", "classifier.pyramid.0.1.weight")
    read = next((ours[name] for name in reading if name in ours), None)
    if read is not None and len(read.shape) == 4:
        expansion = 4 if "backbone.layer1.0.conv3.weight" in ours else 1
        stages = {64 * expansion << stage: stage + 1 for stage in (1, 2, 3)}.get(read.shape[1], 4)
        options["backbone_stages"] = stages
        if stages < 4:  # such a network does not dilate
            options["output_stride"] = 2 << stages
    return options


def _is_used(name: str, options: Mapping[str, JSON]) -> bool:
    """SMP's encoders keep the stages that a network of fewer never runs."""
    stages = options["backbone_stages"]
    return not any(name.startswith(f"backbone.layer{i}.") for i in (3, 4) if isinstance(stages, int) and i > stages)
