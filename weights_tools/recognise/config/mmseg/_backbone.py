"""Translate the backbone of an mmsegmentation config to segnets options.

Source: mmsegmentation 1.2.2, models/backbones/resnet.py and resnext.py, models/utils/res_layer.py; 0.30 has the same.
"""

from __future__ import annotations

from weights_tools.recognise.config._section import Section, quote

KINDS = ("ResNet", "ResNetV1c", "ResNetV1d", "ResNeXt")
# depth -> blocks of the fourth stage. Up to 34 they are BasicBlocks.
_FOURTH_STAGE = {18: 2, 34: 3, 50: 3, 101: 3, 152: 3}
_BOTTLENECK = 50
# (strides, dilations) of the stages -> output stride, where dilation replaces stride.
_OUTPUT_STRIDES = {
    ((1, 2, 2, 2), (1, 1, 1, 1)): 32,
    ((1, 2, 2, 1), (1, 1, 1, 2)): 16,
    ((1, 2, 1, 1), (1, 1, 2, 4)): 8,
}
# Layers that compute batch norm.
_BATCH_NORMS = ("BN", "BN2d", "SyncBN", "MMSyncBN", "BatchNorm2d", "SyncBatchNorm")


def type_of(section: Section) -> str:
    """Return the class name of a section, without the module if it is mmsegmentation's own."""
    name = section.word("type", "")
    if not name:
        return ""
    own = name.startswith("mmseg.") or "." not in name
    return name.rpartition(".")[2] if own else name


def read_backbone(backbone: Section) -> None:
    """Set the options of the backbone, and refuse what segnets does not support."""
    found = backbone.findings
    kind = type_of(backbone)
    depth = backbone.count("depth")
    if kind not in KINDS:
        found.refuse(f"its backbone is {quote(kind)}")
        return
    for key in ("dcn", "plugins"):
        if backbone.has(key):
            found.refuse(f"its backbone has {key}")
    if backbone.count("num_stages", 4) not in (4, None):
        found.refuse(f"its backbone has num_stages={backbone.get('num_stages')!r}")
        return
    refuse_other_convolutions(backbone)
    deep = kind in ("ResNetV1c", "ResNetV1d") or backbone.get("deep_stem") is True
    read_norm(backbone, "norm_eps", deep_stem=deep)
    if depth not in _FOURTH_STAGE:
        found.note("ignored the dilation of the backbone: its depth is unreadable")
        return
    if kind != "ResNeXt":  # each depth has several networks
        found.expect("backbone", f"resnet{depth}")
        found.expect("stem", "deep" if deep else "plain")
    if depth >= _BOTTLENECK:
        style = backbone.word("style", "pytorch")
        if style in ("pytorch", "caffe"):
            found.set_option("stride_in_1x1", style == "caffe")
    _read_dilation(backbone, depth)


def _read_dilation(backbone: Section, depth: int) -> None:
    found = backbone.findings
    strides = backbone.counts("strides", (1, 2, 2, 2))
    dilations = backbone.counts("dilations", (1, 1, 1, 1))
    grid = backbone.counts("multi_grid", ()) if backbone.has("multi_grid") else ()
    contracted = backbone.flag("contract_dilation", False)
    if strides is None or dilations is None or grid is None:
        return
    blocks = _FOURTH_STAGE[depth]
    if grid and (len(grid) < blocks or 0 in grid):
        found.refuse(f"its backbone has multi_grid={grid} for {blocks} blocks")
        return
    stride = _output_stride(strides, dilations, bool(grid))
    if stride is None:
        found.refuse(f"its backbone has strides={strides} with dilations={dilations}")
        return
    found.set_option("output_stride", stride)
    found.set_option("multi_grid", [*grid[:blocks]] if grid else None)
    # With multi_grid, the fourth stage has its own dilations.
    if contracted is not None and stride < (16 if grid else 32):
        found.set_option("first_block_dilation", "previous" if contracted else "same")
    if depth < _BOTTLENECK and (stride < 32 or grid):
        found.set_option("basic_block_dilation", "first")


def _output_stride(strides: tuple[int, ...], dilations: tuple[int, ...], grid: bool) -> int | None:
    """Return the output stride, or None if dilation does not replace stride. `grid` replaces the fourth dilation."""
    for (known_strides, known_dilations), stride in _OUTPUT_STRIDES.items():
        used = 3 if grid else 4
        if strides == known_strides and len(dilations) == 4 and dilations[:used] == known_dilations[:used]:
            return stride
    return None


def refuse_other_convolutions(section: Section) -> None:
    """Refuse a section with special convolutions."""
    if section.has("conv_cfg"):
        kind = type_of(section.part("conv_cfg"))
        if kind not in ("Conv", "Conv2d") or len(section.part("conv_cfg").values) > 1:
            section.findings.refuse(f"its {section.name} uses unsupported convolutions ({quote(kind)})")


def read_norm(section: Section, option: str, *, deep_stem: bool = False) -> None:
    """Set `option` to the eps of the norms. A backbone without norm_cfg has plain batch norm."""
    found = section.findings
    norm = section.part("norm_cfg")
    if "norm_cfg" in section.values and not norm.values:
        return
    kind = type_of(norm) if norm.values else "BN"
    kind = kind.rpartition(".")[2] if kind.startswith("torch.nn.") else kind
    if kind == "GN" and norm.count("num_groups") == 32 and not deep_stem:
        # Each of a deep stem's 32 channels would be a separate group; our groups have at least two channels.
        found.set_option(option.replace("eps", "layer"), "group")
    elif kind not in _BATCH_NORMS:
        found.refuse(f"its {section.name} has the norm {quote(kind)}")
        return
    elif found.options.get("norm_layer") == "group":
        found.set_option("head_norm_layer", "batch")  # the default is the backbone's
    eps = norm.number("eps", 1e-5)
    if eps is not None and 0 < eps < 1:
        found.set_option(option, eps)
