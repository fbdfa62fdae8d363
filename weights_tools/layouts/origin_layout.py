"""A layout that is tables (`weights_tools.layouts.origins`): recognising, and naming backwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from segnets.card import JSON, ModelConfig
from segnets.registry import BACKBONES, MODELS
from weights_tools.layouts.backbone import BACKBONE, with_backbone, without_backbone
from weights_tools.layouts.base import Evidence, Match, Tensors, WayBack
from weights_tools.layouts.kin import name_stranger
from weights_tools.layouts.mobilenet import describe_mobilenet
from weights_tools.layouts.renaming import Body, Origin, is_in, rename, rename_back
from weights_tools.layouts.resnet import describe_resnet, resnet_variants
from weights_tools.names import listed, shown


@dataclass(frozen=True)
class OriginLayout:
    """See `weights_tools.layouts.base.Layout`. project: what people call it; container: the only kind of its files."""

    name: str
    project: str
    origins: tuple[Origin, ...]
    version: int = 2
    container: str = ""

    def recognise(self, evidence: Evidence) -> Match | str | None:
        if self._is_elsewhere(evidence):
            return None
        tensors = evidence.tensors
        found = [origin for origin in self.origins if origin.signature in tensors]
        origin = next((origin for origin in found if origin.unique or self.container or evidence.by_name), None)
        if origin is None:
            return None
        what = f"a {origin.name} of {self.project}"
        body = _body(origin.bodies, tensors)
        if body is None:
            root = origin.signature.partition(".")[0] + "."
            what = name_stranger(rename((name for name in tensors if name.startswith(root)), origin.table)[1]) or what
            return f"it looks like {what} on an encoder that can't be converted" if origin.head else None
        unused = [name for name in tensors if is_in(name, origin.unused)]
        names, unknown = rename((name for name in tensors if name not in unused), {**body.table, **origin.table})
        if unknown:
            what = name_stranger(unknown) or what
            return f"it looks like {what}, with tensors that have no place here: {listed(map(shown, unknown), 3)}"
        ours = {new: tensors[old] for new, old in names.items()}
        network, strange = _describe_body(ours, {**evidence.told, **evidence.chosen})
        if strange:
            return f"it looks like {what} on {strange}, which can't be converted"
        if origin.head:
            return self._segmentation(origin, body, network, names, unused, evidence)
        return self._classifier(origin, body, network, names, evidence)

    def recognise_backbone(self, evidence: Evidence) -> Match | str | None:
        if self._is_elsewhere(evidence):
            return None
        tensors = evidence.tensors
        bodies = [body for origin in self.origins if origin.unique or evidence.by_name for body in origin.bodies]
        body = _body(bodies, tensors)
        if body is None:
            return None
        names, others = rename(tensors, body.table)
        network, strange = _describe_body(
            {new: tensors[old] for new, old in names.items()}, {**evidence.told, **evidence.chosen}
        )
        if strange:
            return f"its backbone looks like {strange} of {self.project}, which can't be converted"
        return self._features(body, network, names, tuple(others), evidence)

    def ways_back(self, config: ModelConfig, names: Sequence[str]) -> Iterator[WayBack]:
        head = config.name.partition("_")[0] if config.name in MODELS else ""
        body_names = {with_backbone(name, config.name): name for name in names}
        for origin in self.origins:
            if origin.head != head:
                continue
            for body in origin.bodies:
                theirs = rename_back(body_names, {**body.table, **origin.table})
                if theirs is not None:
                    chosen = {name: config.options[name] for name in origin.open if name in config.options}
                    flattened = tuple(name for name in body.flattened if not head and name in names)
                    yield WayBack({body_names[new]: old for new, old in theirs.items()}, chosen, flattened)

    def _is_elsewhere(self, evidence: Evidence) -> bool:
        return bool(self.container) and evidence.container != self.container and not evidence.by_name

    def _segmentation(
        self,
        origin: Origin,
        body: Body,
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
            **_channels(ours, network),
            **_shown_by_head(ours),
        }
        if "downsample" in shown_by_tensors:
            shown_by_tensors["downsample"] = body.average
        refused = self._refuse_chosen(origin, shown_by_tensors, evidence.chosen)
        if refused:
            return refused
        return self._settled(origin, body, model, shown_by_tensors, names, unused, evidence)

    def _settled(
        self,
        origin: Origin,
        body: Body,
        model: str,
        options: dict[str, JSON],
        names: Mapping[str, str],
        unused: list[str],
        evidence: Evidence,
    ) -> Match:
        builder = MODELS[model]
        told = {name: value for name, value in evidence.told.items() if name in origin.open}
        # The project's own configuration may say what is not open there otherwise, an unusual rule of dilation say.
        required = {**origin.required, **body.required, **_others(evidence.told, origin)}
        wanted = {"output_stride": None, **origin.open, **told, **evidence.chosen, **required}
        stages = options.get("backbone_stages", 4)
        if isinstance(stages, int) and isinstance(wanted["output_stride"], int):
            wanted["output_stride"] = min(wanted["output_stride"], 2 << stages)  # fewer stages shrink less
        for name, value in wanted.items():
            if value is not None and name not in options and name in builder.applicable(options):
                options[name] = value
        settled = builder.settle(options)
        taken = {
            name: settled[name]
            for name in origin.open
            if name in settled and name not in evidence.chosen and name not in told
        }
        notes = []
        if taken:
            values = ", ".join(f"{name}={value}" for name, value in taken.items())
            notes.append(
                f"no tensor shows {values}; these are {self.project}'s defaults, --option NAME=VALUE says otherwise"
            )
        kept = {name: theirs for name, theirs in names.items() if _is_used(name, settled)}
        unused += [theirs for name, theirs in names.items() if name not in kept]
        geometry = {name: settled[name] for name in (*required, *origin.open) if name in settled}
        config = ModelConfig(model, settled)
        notes += origin.note_kin(model.partition("_")[2])
        return Match(self.name, self.version, config, kept, geometry, tuple(notes), unused=tuple(unused))

    def _classifier(
        self, origin: Origin, body: Body, network: str, names: Mapping[str, str], evidence: Evidence
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
        shown_by_tensors: dict[str, JSON] = {"num_classes": last.shape[0], **_channels(ours, network)}
        refused = self._refuse_chosen(origin, shown_by_tensors, evidence.chosen)
        if refused:
            return refused
        wanted = {**origin.open, **evidence.told, **evidence.chosen}
        options = {**shown_by_tensors, **_of_features(body, network), **_kept(wanted, origin.open, network)}
        notes = (*self._note_classifier(origin, options, evidence, network), *origin.note_kin(network))
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
        self, body: Body, network: str, names: Mapping[str, str], others: tuple[str, ...], evidence: Evidence
    ) -> Match:
        ours = {new: evidence.tensors[old] for new, old in names.items()}
        known = {**evidence.told, **evidence.chosen}
        options: dict[str, JSON] = {
            "num_classes": 0,
            **_channels(ours, network),
            **_of_features(body, network),
            **_kept(known, ("stride_in_1x1", "norm_eps"), network),
        }
        mine = {without_backbone(name, network): theirs for name, theirs in names.items()}
        geometry = {**BACKBONES[network].geometry, **options}
        for name in ("num_classes", "replace_stride_with_dilation", "dilated"):
            geometry.pop(name, None)
        notes = ("a backbone keeps neither its output stride nor its dilation: the network that takes it has its own",)
        return Match(self.name, self.version, ModelConfig(network, options), mine, geometry, notes, unused=others)

    def _refuse_chosen(self, origin: Origin, shown_by_tensors: Mapping[str, JSON], chosen: Mapping[str, JSON]) -> str:
        """Say why an option that was chosen is not open, or "" if all are."""
        fixed = [name for name in chosen if name not in origin.open]
        if fixed:
            return (
                f"of a {origin.name} of {self.project} the option {fixed[0]} is not open: the tensors show it, or the "
                f"project has one value; open are {', '.join(origin.open) or 'none'}"
            )
        for name, value in chosen.items():
            if shown_by_tensors.get(name, value) != value:
                return f"{name}={value} was given, but its tensors are those of {name}={shown_by_tensors[name]}"
        return ""

    def _note_classifier(
        self, origin: Origin, options: Mapping[str, JSON], evidence: Evidence, network: str
    ) -> tuple[str, ...]:
        kind = BACKBONES[network].geometry
        taken = {
            name: options.get(name, kind[name])
            for name in origin.open
            if name in kind and name not in evidence.chosen and name not in evidence.told
        }
        if not taken or (network in ("resnet18", "resnet34") and set(taken) == {"stride_in_1x1"}):
            return ()
        values = ", ".join(f"{name}={value}" for name, value in taken.items())
        return (f"no tensor shows {values}; these are {self.project}'s defaults, --option NAME=VALUE says otherwise",)


def _body(bodies: Sequence[Body], tensors: Tensors) -> Body | None:
    return next((body for body in bodies if body.signature in tensors), None)


def _describe_body(ours: Tensors, known: Mapping[str, JSON]) -> tuple[str, str]:
    """Return (name of the backbone, "") or ("", what it looks like)."""
    mobile = describe_mobilenet(ours, BACKBONE)
    if mobile is not None:
        return mobile
    resnet = describe_resnet(ours, BACKBONE, variants=True, group_norm=known.get("norm_layer") == "group")
    return ("", "an encoder that is no ResNet and no MobileNetV3") if resnet is None else resnet


def _channels(ours: Tensors, network: str) -> dict[str, JSON]:
    """What the shapes show of the backbone's options."""
    if not network.startswith("mobilenet"):
        return resnet_variants(ours, BACKBONE)
    channels = ours[f"{BACKBONE}0.0.weight"].shape[1]
    return {} if channels == 3 else {"in_channels": channels}


def _of_features(body: Body, network: str) -> dict[str, JSON]:
    """The options that a backbone needs and a classifier has too."""
    return _kept(body.required, body.required, network)


def _kept(options: Mapping[str, JSON], names: Mapping[str, JSON] | Sequence[str], network: str) -> dict[str, JSON]:
    """Those options that a classifier of this kind has, where they are not its defaults."""
    kind = {"norm_layer": "batch", **BACKBONES[network].geometry}
    if network in ("resnet18", "resnet34"):
        kind.pop("stride_in_1x1")  # there is no 1x1 in a basic block
    return {
        name: value
        for name, value in options.items()
        if name in names and name in kind and value is not None and value != kind[name]
    }


def _others(told: Mapping[str, JSON], origin: Origin) -> dict[str, JSON]:
    return {name: value for name, value in told.items() if name not in origin.open}


def _shown_by_head(ours: Tensors) -> dict[str, JSON]:
    """Options of the head that its shapes show."""
    options: dict[str, JSON] = {}
    for aspp in ("classifier.0.", "classifier.aspp."):
        if f"{aspp}project.0.weight" in ours:
            options["aspp_separable"] = f"{aspp}convs.1.0.0.weight" in ours
            options["pool_norm"] = f"{aspp}convs.4.2.weight" in ours
    if "classifier.fuse.0.weight" in ours and "classifier.pyramid.0.1.weight" in ours:
        options["head_variant"] = "smp" if ours["classifier.fuse.0.weight"].shape[2:] == (1, 1) else "mmseg"
        options["pool_norm"] = "classifier.pyramid.0.2.weight" in ours
    reading = ("classifier.0.convs.0.0.weight", "classifier.aspp.convs.0.0.weight", "classifier.pyramid.0.1.weight")
    read = next((ours[name] for name in reading if name in ours), None)
    if read is not None and len(read.shape) == 4 and "backbone.layer1.0.conv1.weight" in ours:
        expansion = 4 if "backbone.layer1.0.conv3.weight" in ours else 1
        stages = {64 * expansion << stage: stage + 1 for stage in (1, 2, 3)}.get(read.shape[1], 4)
        options["backbone_stages"] = stages
        if stages < 4 and "classifier.pyramid.0.1.weight" in ours:  # SMP's PSPNet does not dilate
            options["output_stride"] = 2 << stages
    return options


def _is_used(name: str, options: Mapping[str, JSON]) -> bool:
    """SMP's encoders keep the stages that a network of fewer never runs."""
    stages = options.get("backbone_stages")
    return not any(name.startswith(f"backbone.layer{i}.") for i in (3, 4) if isinstance(stages, int) and i > stages)
