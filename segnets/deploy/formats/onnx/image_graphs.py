"""Write preprocessing and decoding as two small ONNX graphs.

ONNX's Resize rounds differently from LibTorch. The resize is therefore written out as LibTorch's UpSampleKernel.cpp
(ATen/native/cpu) computes it: which pixels each output pixel reads, their weights, and the order of the additions. That
code is compiled for CPUs with FMA (x86 since 2013), which multiplies and adds with one rounding. Products are rounded
before they are added only where the compiler computes four at a time. This was found by comparing outputs, and a test
checks it.
"""

from __future__ import annotations

from segnets.card import Decoding
from segnets.deploy.formats.onnx._text import Program, Value
from segnets.preprocessing import Preprocessing


def preprocess_text(preprocessing: Preprocessing, opset: int) -> str:
    """Return the preprocessing graph in ONNX's text syntax.

    It takes `image`, (N, H, W, K) uint8, and returns `input`, (N, K, h, w) float32, normalised.

    Args:
        preprocessing: Preprocessing to write.
        opset: ONNX operator set.
    """
    program, channels = Program(), preprocessing.channels
    image = Value(program, "image", "uint8")
    if preprocessing.channel_order == "BGR":
        image = image.at(program.constant("int64", [2, 1, 0], "[3]"), axis=3)
    pixels = image.of("Transpose", "perm = [0, 3, 1, 2]").to("float")
    if preprocessing.resize != "none":
        pixels = _resized(preprocessing, pixels)
    mean = program.constant("float", preprocessing.mean, f"[{channels}, 1, 1]")
    std = program.constant("float", preprocessing.std, f"[{channels}, 1, 1]")
    result = (pixels / 255.0 - mean) / std
    given, made = f"uint8[N, H, W, {channels}] image", f"float[N, {channels}, h, w] input"
    return program.text("preprocess", given, {"input": result}, made, opset)


def mask_text(num_classes: int, decoding: Decoding, opset: int) -> str:
    """Return the decoding graph in ONNX's text syntax.

    It takes `logits`, (N, C, h, w) float32, and `size`, (2,) int64, and returns `mask`, (N, *size) uint8 or int16, or
    planes, (N, C, *size) uint8, of multi-label networks.

    Args:
        num_classes: Number of channels, C.
        decoding: Rule that turns logits into ids.
        opset: ONNX operator set.
    """
    inputs = f"float[N, {num_classes}, h, w] logits, int64[2] size"
    return _argmax_text(num_classes, inputs, opset) if decoding.rule == "argmax" else _cut_text(decoding, inputs, opset)


def _cut_text(decoding: Decoding, inputs: str, opset: int) -> str:
    program = Program()
    logits, size = Value(program, "logits", "float"), Value(program, "size", "int64")
    outer = program.value("Shape", [logits], "int64", "start = 0, end = 2")
    full = program.value("Concat", [outer, size], "int64", "axis = 0")
    how = 'mode = "linear", coordinate_transformation_mode = "half_pixel"'
    resized = program.value("Resize", [logits, None, None, full], "float", how)
    mask = (resized > decoding.cut).to("uint8")
    if decoding.rule == "multilabel":
        return program.text("mask", inputs, {"mask": mask}, "uint8[N, C, H, W] mask", opset)
    mask = program.value("Squeeze", [mask, program.constant("int64", [1], "[1]")], "uint8")
    return program.text("mask", inputs, {"mask": mask}, "uint8[N, H, W] mask", opset)


def _argmax_text(num_classes: int, inputs: str, opset: int) -> str:
    # One class at a time, so that only one is held at the image's size.
    program = Program()
    logits, size = Value(program, "logits", "float"), Value(program, "size", "int64")
    # ONNX Runtime's Where does not support int16.
    kind, counted = ("uint8", "uint8") if num_classes <= 256 else ("int16", "int64")
    batch = program.value("Shape", [logits], "int64", "start = 0, end = 1")
    one = program.constant("int64", [1], "[1]")
    full = program.value("Concat", [batch, one, size], "int64", "axis = 0")

    def resized(body: Program, number: Value) -> Value:
        of_class = body.value("Gather", [logits, number], "float", "axis = 1")
        how = 'mode = "linear", coordinate_transformation_mode = "half_pixel"'
        return body.value("Resize", [of_class, None, None, full], "float", how)

    def step(body: Program, turn: Value, values: list[Value]) -> list[Value]:
        best, ids = values
        number = turn + 1
        here = resized(body, number.column(0))
        better = here > best
        return [body.where(better, here, best), body.where(better, number.to(counted), ids)]

    ids = program.value("ConstantOfShape", [full], counted, f"value = {counted}[1] {{0}}")
    starts = [resized(program, program.constant("int64", [0], "[1]")), ids]
    _, ids = program.loop(program.constant("int64", num_classes - 1), starts, ["N, 1, H, W"] * 2, step)
    mask = program.value("Squeeze", [ids, one], counted).to(kind)
    return program.text("mask", inputs, {"mask": mask}, f"{kind}[N, H, W] mask", opset)


def _resized(preprocessing: Preprocessing, pixels: Value) -> Value:
    """Resize as `Preprocess.resized` does: the width first, like ATen."""
    height, width = pixels.length(2), pixels.length(3)
    new_height, new_width = _output_size(preprocessing, height, width)
    for old, new, axis in ((width, new_width, 3), (height, new_height, 2)):
        pixels = _along(preprocessing, pixels, old, new, axis)
    program = pixels.program
    low, high = program.constant("float", 0.0), program.constant("float", 255.0)
    return program.value("Clip", [pixels, low, high], "float").of("Round")


def _output_size(preprocessing: Preprocessing, height: Value, width: Value) -> tuple[Value, Value]:
    program, size = height.program, preprocessing.size
    if isinstance(size, tuple):
        return program.constant("int64", size[0]), program.constant("int64", size[1])
    if isinstance(size, float):
        new_height, new_width = ((side.to("double") * size + 0.5).to("int64").most(1) for side in (height, width))
        return new_height, new_width  # as `scaled_side`
    assert size is not None
    short_side = program.constant("int64", size)
    product = (short_side * height.most(width)).to("double")
    long_side = (product / height.least(width).to("double")).to("int64")
    upright = height > width
    return program.where(upright, long_side, short_side), program.where(upright, short_side, long_side)


def _along(preprocessing: Preprocessing, pixels: Value, old: Value, new: Value, axis: int) -> Value:
    """Resize one axis of (N, K, H, W) float32 from `old` to `new` pixels."""
    program = pixels.program
    numbers, scale = program.range(new), old.to("float") / new.to("float")
    if preprocessing.interpolation == "nearest":
        at = (numbers.to("float") * scale).of("Floor").to("int64")
        return pixels.at(at.least(old - 1), axis)
    cubic = preprocessing.interpolation == "bicubic"
    taps = _antialias_taps if preprocessing.antialias else _plain_taps
    return _weighted_sum(pixels, axis, *taps(numbers, scale, old, cubic))


def _weighted_sum(pixels: Value, axis: int, index: Value, weight: Value, fused: Value) -> Value:
    """Add weighted pixels along one axis.

    Args:
        pixels: Pixels, (N, C, H, W) float32.
        axis: Axis to resize, 2 or 3.
        index: Pixels to add, in this order, (K, new).
        weight: Weights of these pixels, (K, new).
        fused: Whether each product is added with one rounding, (K, new).
    """
    exact, wide = pixels.to("double"), weight.to("double")

    def row(body: Program, values: Value, turn: Value) -> Value:
        picked = body.value("Gather", [values, turn], values.kind, "axis = 0")
        return picked if axis == 3 else picked.column()  # broadcasts to (N, C, H, new) or (N, C, new, W)

    def step(body: Program, turn: Value, values: list[Value]) -> list[Value]:
        tap = exact.at(index.at(turn), axis)
        product = tap * row(body, wide, turn)  # a product of two float32 is exact in float64
        added = body.where(row(body, fused, turn), product, product.to("float").to("double"))
        return [(values[0].to("double") + added).to("float")]

    start = pixels.at(index.at(0), axis) * 0.0
    (result,) = pixels.program.loop(index.length(0), [start], ["N, C, H, W"], step)
    return result


def _antialias_taps(numbers: Value, scale: Value, old: Value, cubic: bool) -> tuple[Value, Value, Value]:
    """Return index, weight and fused of the pixels under a triangle or cubic filter as wide as an output pixel."""
    program = numbers.program
    stretch = scale.most(1.0)
    support, inverse = stretch * (2.0 if cubic else 1.0), program.constant("float", 1.0) / stretch
    center = (scale.to("double") * (numbers.to("double") + 0.5)).to("float")
    first = ((center - support).to("double") + 0.5).to("int64").most(0)
    end = ((center + support).to("double") + 0.5).to("int64").least(old)
    count = (end - first).most(0)
    turn = program.range(count.of("ReduceMax", "keepdims = 0")).column()
    place = turn + first
    x = (((place.to("float") - center).to("double") + 0.5) * inverse.to("double")).to("float").of("Abs")
    shape = _cubic_shape(x) if cubic else _triangle(x)
    zero = program.constant("float", 0.0)
    weight = program.where(turn < count, shape, zero)
    # CumSum adds in order; ReduceSum need not.
    sums = program.value("CumSum", [weight, program.constant("int64", 0)], "float")
    total = sums.at(-1)
    weight = weight / program.where(total.equals(0.0), program.constant("float", 1.0), total)
    others = count - 1
    return place.least(old - 1), weight, turn > others / 4 * 4


def _plain_taps(numbers: Value, scale: Value, old: Value, cubic: bool) -> tuple[Value, Value, Value]:
    """Return index, weight and fused of the two or four pixels around each output pixel's source."""
    program = numbers.program
    half = program.constant("float", -0.5)
    at = _fused(scale, numbers.to("float") + 0.5, half)
    if not cubic:
        at = at.most(0.0)
    low = at.of("Floor").to("int64").least(old - 1)
    t = (at - low.to("float")).most(0.0).least(1.0)
    one = program.constant("float", 1.0)
    # Compiled LibTorch starts with the second one.
    if cubic:
        weights = [_near(t, -0.75), _far(t + 1.0, -0.75), _near(one - t, -0.75), _far(one - t + 1.0, -0.75)]
        places = [low, low - 1, low + 1, low + 2]
    else:
        weights, places = [t, one - t], [low + 1, low]
    index = program.value("Concat", [each.column(0) for each in places], "int64", "axis = 0").most(0).least(old - 1)
    weight = program.value("Concat", [each.column(0) for each in weights], "float", "axis = 0")
    return index, weight, weight.equals(weight)


def _triangle(x: Value) -> Value:
    program = x.program
    falling = (program.constant("double", 1.0) - x.to("double")).to("float")
    return program.where(x < 1.0, falling, program.constant("float", 0.0))


def _cubic_shape(x: Value) -> Value:
    program = x.program
    outer = program.where(x < 2.0, _far(x, -0.5, True), program.constant("float", 0.0))
    return program.where(x < 1.0, _near(x, -0.5, True), outer)


def _near(x: Value, a: float, fused_end: bool = False) -> Value:
    """Compute cubic convolution for x in 0..1: ((a + 2) x - (a + 3)) x x + 1."""
    number = x.program.constant
    y = _fused(number("float", a + 2), x, number("float", -(a + 3))) * x
    return _fused(y, x, number("float", 1.0)) if fused_end else y * x + 1.0


def _far(x: Value, a: float, fused_end: bool = False) -> Value:
    """Compute cubic convolution for x in 1..2: ((a x - 5 a) x + 8 a) x - 4 a."""
    number = x.program.constant
    y = _fused(_fused(number("float", a), x, number("float", -5 * a)), x, number("float", 8 * a))
    return _fused(y, x, number("float", -4 * a)) if fused_end else y * x + (-4 * a)


def _fused(a: Value, b: Value, c: Value) -> Value:
    """Compute a * b + c through float64, where a * b is exact, and round the sum to float32."""
    return (a.to("double") * b.to("double") + c.to("double")).to("float")
