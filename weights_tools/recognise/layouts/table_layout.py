"""A layout that is tables (`weights_tools.recognise.layouts.tables`): recognising, and naming backwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from segnets.card import JSON, ModelConfig
from segnets.registry import BACKBONES, MODELS
from weights_tools._text import join_names, printable
from weights_tools.recognise.layouts._backbone import with_backbone, without_backbone
from weights_tools.recognise.layouts._infer_options import (
    describe_body,
    is_used,
    options_of_backbone,
    options_of_classifier,
    options_of_head,
    required_of_classifier,
)
from weights_tools.recognise.layouts._unsupported import name_unsupported
from weights_tools.recognise.layouts.base import Evidence, ExportNames, Match, Tensors
from weights_tools.recognise.layouts.key_map import BackboneTable, NetworkTable, is_in, rename, rename_back


@dataclass(frozen=True)
class TableLayout:
    """See `base.Layout`. project: what people call it; container: the only kind of its files."""

    name: str
    project: str
    networks: tuple[NetworkTable, ...]
    version: int = 2
    container: str = ""

    def match(self, evidence: Evidence) -> Match | str | None:
        if self._is_elsewhere(evidence):
            return None
        tensors = evidence.tensors
        found = [origin for origin in self.networks if origin.signature in tensors]
        origin = next((origin for origin in found if origin.unique or self.container or evidence.by_name), None)
        if origin is None:
            return None
        what = f"a {origin.name} of {self.project}"
        body = _body(origin.backbones, tensors)
        if body is None:
            root = origin.signature.partition(".")[0] + "."
            what = (
                name_unsupported(rename((name for name in tensors if name.startswith(root)), origin.table)[1]) or what
            )
            return f"it looks like {what} on an encoder that can't be converted" if origin.head else None
        unused = [name for name in tensors if is_in(name, origin.unused)]
        names, unknown = rename((name for name in tensors if name not in unused), {**body.table, **origin.table})
        if unknown:
            what = name_unsupported(unknown) or what
            return (
                f"it looks like {what}, with tensors that have no place here: {join_names(map(printable, unknown), 3)}"
            )
        ours = {new: tensors[old] for new, old in names.items()}
        network, strange = describe_body(ours, body, {**evidence.told, **evidence.chosen})
        if strange:
            return f"it looks like {what} on {strange}, which can't be converted"
        if origin.head:
            return self._segmentation(origin, body, network, names, unused, evidence)
        return self._classifier(origin, body, network, names, evidence)

    def match_backbone(self, evidence: Evidence) -> Match | str | None:
        if self._is_elsewhere(evidence):
            return None
        tensors = evidence.tensors
        bodies = [body for origin in self.networks if origin.unique or evidence.by_name for body in origin.backbones]
        body = _body(bodies, tensors)
        if body is None:
            return None
        names, others = rename(tensors, body.table)
        network, strange = describe_body(
            {new: tensors[old] for new, old in names.items()}, body, {**evidence.told, **evidence.chosen}
        )
        if strange:
            return f"its backbone looks like {strange} of {self.project}, which can't be converted"
        return self._features(body, network, names, tuple(others), evidence)

    def export_names(self, config: ModelConfig, names: Sequence[str]) -> Iterator[ExportNames]:
        head = config.name.partition("_")[0] if config.name in MODELS else ""
        body_names = {with_backbone(name, config.name): name for name in names}
        for origin in self.networks:
            if origin.head != head:
                continue
            for body in origin.backbones:
                theirs = rename_back(body_names, {**body.table, **origin.table})
                if theirs is not None:
                    chosen = {name: config.options[name] for name in origin.choices if name in config.options}
                    flattened = tuple(name for name in body.flattened if not head and name in names)
                    yield ExportNames({body_names[new]: old for new, old in theirs.items()}, chosen, flattened)

    def _is_elsewhere(self, evidence: Evidence) -> bool:
        return bool(self.container) and evidence.container != self.container and not evidence.by_name

    def _segmentation(
        self,
        origin: NetworkTable,
        body: BackboneTable,
        network: str,
        names: Mapping[str, str],
        unused: list[str],
        evidence: Evidence,
    ) -> Match | str:
        ours = {new: evidence.tensors[old] for new, old in names.items()}
        last = ours.get(f"{origin.last}.weight")
        if last is None or len(last.shape) != 4:
            what = f"a {origin.name} of {self.project}"
            return f"it looks like {what}, but {origin.last!r} (as it is called here) gives no scores"
        model = f"{origin.head}_{network}"
        shown_by_tensors: dict[str, JSON] = {
            "num_classes": last.shape[0],
            "head_channels": last.shape[1],
            "aux_loss": any(name.startswith("aux_classifier.") for name in ours),
            **options_of_backbone(ours, network),
            **options_of_head(ours),
        }
        if "downsample" in shown_by_tensors:
            shown_by_tensors["downsample"] = body.average
        refused = self._refuse_chosen(origin, shown_by_tensors, evidence.chosen)
        if refused:
            return refused
        return self._settled(origin, body, model, shown_by_tensors, names, unused, evidence)

    def _settled(
        self,
        origin: NetworkTable,
        body: BackboneTable,
        model: str,
        options: dict[str, JSON],
        names: Mapping[str, str],
        unused: list[str],
        evidence: Evidence,
    ) -> Match:
        builder = MODELS[model]
        told = {name: value for name, value in evidence.told.items() if name in origin.choices}
        # The project's own configuration may say what is not open there otherwise, an unusual rule of dilation say.
        required = {**origin.required, **body.required, **_others(evidence.told, origin)}
        wanted = {"output_stride": None, **origin.choices, **told, **evidence.chosen, **required}
        stages = options.get("backbone_stages", 4)
        if isinstance(stages, int) and isinstance(wanted["output_stride"], int):
            wanted["output_stride"] = min(wanted["output_stride"], 2 << stages)  # fewer stages shrink less
        for name, value in wanted.items():
            if value is not None and name not in options and name in builder.applicable(options):
                options[name] = value
        settled = builder.resolve(options)
        taken = {
            name: settled[name]
            for name in origin.choices
            if name in settled and name not in evidence.chosen and name not in told
        }
        notes = []
        if taken:
            values = ", ".join(f"{name}={value}" for name, value in taken.items())
            notes.append(
                f"no tensor shows {values}; these are {self.project}'s defaults, --option NAME=VALUE says otherwise"
            )
        kept = {name: theirs for name, theirs in names.items() if is_used(name, settled)}
        unused += [theirs for name, theirs in names.items() if name not in kept]
        geometry = {name: settled[name] for name in (*required, *origin.choices) if name in settled}
        config = ModelConfig(model, settled)
        notes += origin.look_alike_notes(model.partition("_")[2])
        return Match(self.name, self.version, config, kept, geometry, tuple(notes), unused=tuple(unused))

    def _classifier(
        self, origin: NetworkTable, body: BackboneTable, network: str, names: Mapping[str, str], evidence: Evidence
    ) -> Match | str:
        ours = {new: evidence.tensors[old] for new, old in names.items()}
        last = ours.get(f"{origin.last}.weight")
        if last is None:
            return (
                f"it holds the {network} of {self.project} without its last layer ({origin.last!r} here); "
                "--backbone-only converts it as a backbone"
            )
        if len(last.shape) != 2 or last.shape[0] < 1:
            return f"its last layer has the shape {last.shape}; (classes, features) was expected"
        shown_by_tensors: dict[str, JSON] = {"num_classes": last.shape[0], **options_of_backbone(ours, network)}
        refused = self._refuse_chosen(origin, shown_by_tensors, evidence.chosen)
        if refused:
            return refused
        wanted = {**origin.choices, **evidence.told, **evidence.chosen}
        options = {
            **shown_by_tensors,
            **required_of_classifier(body, network),
            **options_of_classifier(wanted, origin.choices, network),
        }
        notes = (*self._note_classifier(origin, options, evidence, network), *origin.look_alike_notes(network))
        geometry = {**BACKBONES[network].geometry, **options}
        for name in ("num_classes", "replace_stride_with_dilation", "dilated"):
            geometry.pop(name, None)
        mine = {without_backbone(name, network): theirs for name, theirs in names.items()}
        flattened = tuple(
            name for name in body.flattened if name in mine and len(evidence.tensors[mine[name]].shape) == 4
        )
        config = ModelConfig(network, options)
        return Match(self.name, self.version, config, mine, geometry, notes, flattened)

    def _features(
        self, body: BackboneTable, network: str, names: Mapping[str, str], others: tuple[str, ...], evidence: Evidence
    ) -> Match:
        ours = {new: evidence.tensors[old] for new, old in names.items()}
        known = {**evidence.told, **evidence.chosen}
        options: dict[str, JSON] = {
            "num_classes": 0,
            **options_of_backbone(ours, network),
            **required_of_classifier(body, network),
            **options_of_classifier(known, ("stride_in_1x1", "norm_eps"), network),
        }
        mine = {without_backbone(name, network): theirs for name, theirs in names.items()}
        geometry = {**BACKBONES[network].geometry, **options}
        for name in ("num_classes", "replace_stride_with_dilation", "dilated"):
            geometry.pop(name, None)
        notes = ("a backbone keeps neither its output stride nor its dilation: the network that takes it has its own",)
        return Match(self.name, self.version, ModelConfig(network, options), mine, geometry, notes, unused=others)

    def _refuse_chosen(
        self, origin: NetworkTable, shown_by_tensors: Mapping[str, JSON], chosen: Mapping[str, JSON]
    ) -> str:
        """Say why an option that was chosen is not open, or "" if all are."""
        fixed = [name for name in chosen if name not in origin.choices]
        if fixed:
            return (
                f"of a {origin.name} of {self.project} the option {fixed[0]} is not open: the tensors show it, or the "
                f"project has one value; open are {', '.join(origin.choices) or 'none'}"
            )
        for name, value in chosen.items():
            if shown_by_tensors.get(name, value) != value:
                return f"{name}={value} was given, but its tensors are those of {name}={shown_by_tensors[name]}"
        return ""

    def _note_classifier(
        self, origin: NetworkTable, options: Mapping[str, JSON], evidence: Evidence, network: str
    ) -> tuple[str, ...]:
        kind = BACKBONES[network].geometry
        taken = {
            name: options.get(name, kind[name])
            for name in origin.choices
            if name in kind and name not in evidence.chosen and name not in evidence.told
        }
        if not taken or (network in ("resnet18", "resnet34") and set(taken) == {"stride_in_1x1"}):
            return ()
        values = ", ".join(f"{name}={value}" for name, value in taken.items())
        return (f"no tensor shows {values}; these are {self.project}'s defaults, --option NAME=VALUE says otherwise",)


def _body(bodies: Sequence[BackboneTable], tensors: Tensors) -> BackboneTable | None:
    return next((body for body in bodies if body.signature in tensors), None)


def _others(told: Mapping[str, JSON], origin: NetworkTable) -> dict[str, JSON]:
    return {name: value for name, value in told.items() if name not in origin.choices}
