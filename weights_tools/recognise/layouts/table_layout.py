"""Match checkpoints with the tables of a project (`layouts.tables`), and apply the tables in reverse for export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from segnets.card import JSON, ModelConfig
from segnets.options import CLASSIFIER_OPTIONS, OPTIONS
from segnets.registry import BACKBONES, MODELS
from weights_tools._text import join_names, printable
from weights_tools.recognise.layouts._backbone import add_backbone_prefix, strip_backbone_prefix
from weights_tools.recognise.layouts._infer_options import (
    identify_backbone,
    infer_backbone_options,
    infer_head_options,
    is_used,
    select_classifier_options,
)
from weights_tools.recognise.layouts._unsupported import name_unsupported
from weights_tools.recognise.layouts.base import Evidence, ExportNames, Match, Tensors
from weights_tools.recognise.layouts.key_map import is_in, rename, rename_back
from weights_tools.recognise.layouts.network_table import BackboneTable, NetworkTable

# These belong to the classifier, not to the geometry of the features.
_NO_GEOMETRY = ("num_classes", *(option.name for option in CLASSIFIER_OPTIONS))
# Options of a backbone alone that the weights do not determine.
_HIDDEN_IN_BACKBONE = tuple(option.name for option in OPTIONS if option.in_backbone_file and option.visible == "no")


@dataclass(frozen=True)
class _Renamed:
    """A checkpoint with tensors renamed to segnets' names.

    Attributes:
        backbone: Name of the backbone.
        backbone_table: Table used to rename the backbone.
        names: Name in the file for each of our names. Those of the backbone begin with "backbone.".
        tensors: Tensors by our names.
        unused: Tensors of the file that the network never uses.
    """

    backbone: str
    backbone_table: BackboneTable
    names: Mapping[str, str]
    tensors: Tensors
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableLayout:
    """Layout defined by tables; see `base.Layout`.

    Attributes:
        name: Name for `--layout` and for the converted file.
        project: Name of the project in messages.
        networks: Networks of the project.
        version: Version of the rules.
        container: The only format that the project writes, or "" if it writes several.
    """

    name: str
    project: str
    networks: tuple[NetworkTable, ...]
    version: int = 2
    container: str = ""

    def match(self, evidence: Evidence) -> Match | str | None:
        """Recognise a network; see `base.Layout.match`."""
        table = self._find_table(evidence)
        if table is None:
            return None
        tensors = evidence.tensors
        what = f"a {table.name} of {self.project}"
        backbone_table = _find_backbone_table(table.backbones, tensors)
        if backbone_table is None:
            root = table.signature.partition(".")[0] + "."
            unknown = rename((name for name in tensors if name.startswith(root)), table.keys)[1]
            what = name_unsupported(unknown) or what
            return f"the tensors look like {what} on an encoder that is not supported" if table.head else None
        unused = tuple(name for name in tensors if is_in(name, table.unused))
        key_map = {**backbone_table.keys, **table.keys}
        names, unknown = rename((name for name in tensors if name not in unused), key_map)
        if unknown:
            what = name_unsupported(unknown) or what
            listed = join_names(map(printable, unknown), 3)
            return f"the tensors look like {what}, but some belong to no part of it that segnets supports: {listed}"
        ours = {new: tensors[old] for new, old in names.items()}
        known = {**evidence.configured, **evidence.chosen}
        backbone, unsupported = identify_backbone(ours, backbone_table, known)
        if unsupported:
            return f"the tensors look like {what} on {unsupported}, which is not supported"
        renamed = _Renamed(backbone, backbone_table, names, ours, unused)
        if table.head:
            return self._match_segmentation(table, renamed, evidence)
        return self._match_classifier(table, renamed, evidence)

    def match_backbone(self, evidence: Evidence) -> Match | str | None:
        """Recognise the backbone alone; see `base.Layout.match_backbone`."""
        if self._is_other_format(evidence):
            return None
        tensors = evidence.tensors
        tables = [table for table in self.networks if table.unique or evidence.requested]
        backbone_table = _find_backbone_table([each for table in tables for each in table.backbones], tensors)
        if backbone_table is None:
            return None
        names, others = rename(tensors, backbone_table.keys)
        ours = {new: tensors[old] for new, old in names.items()}
        known = {**evidence.configured, **evidence.chosen}
        backbone, unsupported = identify_backbone(ours, backbone_table, known)
        if unsupported:
            return f"the backbone looks like {unsupported} of {self.project}, which is not supported"
        options: dict[str, JSON] = {
            "num_classes": 0,
            **infer_backbone_options(ours, backbone),
            **select_classifier_options(backbone_table.required, backbone_table.required, backbone),
            **select_classifier_options(known, _HIDDEN_IN_BACKBONE, backbone),
        }
        note = "a backbone's file records neither output stride nor dilation: the network that loads it has its own"
        return Match(
            self.name,
            self.version,
            ModelConfig(backbone, options),
            {strip_backbone_prefix(name, backbone): theirs for name, theirs in names.items()},
            _classifier_geometry(backbone, options),
            (note,),
            unused=tuple(others),
        )

    def export_names(self, config: ModelConfig, names: Sequence[str]) -> Iterator[ExportNames]:
        """Yield the sets of names that the tables give; see `base.Layout.export_names`."""
        head = config.name.partition("_")[0] if config.name in MODELS else ""
        prefixed = {add_backbone_prefix(name, config.name): name for name in names}
        for table in self.networks:
            if table.head != head:
                continue
            for backbone_table in table.backbones:
                theirs = rename_back(prefixed, {**backbone_table.keys, **table.keys})
                if theirs is not None:
                    chosen = {name: config.options[name] for name in table.choices if name in config.options}
                    flattened = tuple(name for name in backbone_table.flattened if not head and name in names)
                    yield ExportNames({prefixed[new]: old for new, old in theirs.items()}, chosen, flattened)

    def _is_other_format(self, evidence: Evidence) -> bool:
        return bool(self.container) and evidence.container != self.container and not evidence.requested

    def _find_table(self, evidence: Evidence) -> NetworkTable | None:
        """Return the network whose signature is present, if that is sufficient evidence."""
        if self._is_other_format(evidence):
            return None
        found = [table for table in self.networks if table.signature in evidence.tensors]
        return next((table for table in found if table.unique or self.container or evidence.requested), None)

    def _match_segmentation(self, table: NetworkTable, renamed: _Renamed, evidence: Evidence) -> Match | str:
        last = renamed.tensors.get(f"{table.last_layer}.weight")
        if last is None or len(last.shape) != 4:
            return (
                f"the tensors look like a {table.name} of {self.project}, but its last layer ({table.last_layer!r} in "
                "segnets) is missing or not a convolution"
            )
        visible: dict[str, JSON] = {
            "num_classes": last.shape[0],
            "head_channels": last.shape[1],
            "aux_loss": any(name.startswith("aux_classifier.") for name in renamed.tensors),
            **infer_backbone_options(renamed.tensors, renamed.backbone),
            **infer_head_options(renamed.tensors),
        }
        if "downsample" in visible:
            visible["downsample"] = renamed.backbone_table.average_downsample
        refusal = self._check_chosen(table, visible, evidence.chosen)
        if refusal:
            return refusal
        return self._resolve_segmentation(table, renamed, visible, evidence)

    def _resolve_segmentation(
        self, table: NetworkTable, renamed: _Renamed, options: dict[str, JSON], evidence: Evidence
    ) -> Match:
        """Add the options that the weights do not determine. The caller's options override the project's config."""
        model = f"{table.head}_{renamed.backbone}"
        builder = MODELS[model]
        configured = {name: value for name, value in evidence.configured.items() if name in table.choices}
        # A config can also set options that users rarely change, such as a dilation rule.
        others = {name: value for name, value in evidence.configured.items() if name not in table.choices}
        required = {**table.required, **renamed.backbone_table.required, **others}
        wanted = {"output_stride": None, **table.choices, **configured, **evidence.chosen, **required}
        stages = options.get("backbone_stages", 4)
        if isinstance(stages, int) and isinstance(wanted["output_stride"], int):
            wanted["output_stride"] = min(
                wanted["output_stride"], 2 << stages
            )  # fewer stages give a smaller output stride
        for name, value in wanted.items():
            if value is not None and name not in options and name in builder.applicable(options):
                options[name] = value
        resolved = builder.resolve(options)
        assumed = {
            name: resolved[name]
            for name in table.choices
            if name in resolved and name not in evidence.chosen and name not in configured
        }
        kept = {name: theirs for name, theirs in renamed.names.items() if is_used(name, resolved)}
        never_run = [theirs for name, theirs in renamed.names.items() if name not in kept]
        return Match(
            self.name,
            self.version,
            ModelConfig(model, resolved),
            kept,
            {name: resolved[name] for name in (*required, *table.choices) if name in resolved},
            (*self._note_assumed(assumed), *table.look_alike_notes(renamed.backbone)),
            unused=(*renamed.unused, *never_run),
        )

    def _match_classifier(self, table: NetworkTable, renamed: _Renamed, evidence: Evidence) -> Match | str:
        backbone = renamed.backbone
        last = renamed.tensors.get(f"{table.last_layer}.weight")
        if last is None:
            return (
                f"the tensors are those of a {backbone} of {self.project} without its last layer ({table.last_layer!r} "
                "in segnets); --backbone-only converts the backbone"
            )
        if len(last.shape) != 2 or last.shape[0] < 1:
            return f"the last layer has shape {last.shape}; expected (classes, features)"
        visible: dict[str, JSON] = {
            "num_classes": last.shape[0],
            **infer_backbone_options(renamed.tensors, backbone),
        }
        refusal = self._check_chosen(table, visible, evidence.chosen)
        if refusal:
            return refusal
        required = renamed.backbone_table.required
        wanted = {**table.choices, **evidence.configured, **evidence.chosen}
        options = {
            **visible,
            **select_classifier_options(required, required, backbone),
            **select_classifier_options(wanted, table.choices, backbone),
        }
        names = {strip_backbone_prefix(name, backbone): theirs for name, theirs in renamed.names.items()}
        flattened = tuple(
            name
            for name in renamed.backbone_table.flattened
            if name in names and len(evidence.tensors[names[name]].shape) == 4
        )
        notes = (*self._note_classifier(table, options, evidence, backbone), *table.look_alike_notes(backbone))
        geometry = _classifier_geometry(backbone, options)
        return Match(self.name, self.version, ModelConfig(backbone, options), names, geometry, notes, flattened)

    def _check_chosen(self, table: NetworkTable, visible: Mapping[str, JSON], chosen: Mapping[str, JSON]) -> str:
        """Explain why an option cannot be chosen for this network, or return ""."""
        fixed = [name for name in chosen if name not in table.choices]
        if fixed:
            return (
                f"the option {fixed[0]} cannot be chosen for a {table.name} of {self.project}: the weights or the "
                f"project determine it. Options to choose: {', '.join(table.choices) or 'none'}"
            )
        for name, value in chosen.items():
            if visible.get(name, value) != value:
                return f"{name}={value} was chosen, but the tensors are those of {name}={visible[name]}"
        return ""

    def _note_classifier(
        self, table: NetworkTable, options: Mapping[str, JSON], evidence: Evidence, backbone: str
    ) -> tuple[str, ...]:
        geometry = BACKBONES[backbone].geometry
        assumed = {
            name: options.get(name, geometry[name])
            for name in table.choices
            if name in geometry and name not in evidence.chosen and name not in evidence.configured
        }
        # Basic blocks have no 1x1 convolution.
        if backbone in ("resnet18", "resnet34") and set(assumed) == {"stride_in_1x1"}:
            return ()
        return self._note_assumed(assumed)

    def _note_assumed(self, assumed: Mapping[str, JSON]) -> tuple[str, ...]:
        """Return a note that lists the assumed defaults of the project, if there are any."""
        if not assumed:
            return ()
        values = ", ".join(f"{name}={value}" for name, value in assumed.items())
        return (
            f"the weights do not determine {values}: assumed {self.project}'s defaults. --option NAME=VALUE sets "
            "another value",
        )


def _find_backbone_table(tables: Sequence[BackboneTable], tensors: Tensors) -> BackboneTable | None:
    return next((table for table in tables if table.signature in tensors), None)


def _classifier_geometry(backbone: str, options: Mapping[str, JSON]) -> dict[str, JSON]:
    geometry = {**BACKBONES[backbone].geometry, **options}
    return {name: value for name, value in geometry.items() if name not in _NO_GEOMETRY}
