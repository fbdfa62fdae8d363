"""Write small ONNX programs as one writes numpy: `(a + 0.5).to("float")` becomes lines of ONNX's text syntax.

Every number and tensor has a kind, "float", "double", "int64", "uint8", "int16" or "bool", and nothing is converted
unless it is said: rounding is the point of these programs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_NUMBERS = {"float": 1, "uint8": 2, "int16": 5, "int64": 7, "bool": 9, "double": 11}
IR_VERSION = 10


@dataclass
class Program:
    """Lines of a program, or of the body of a loop in it."""

    lines: list[str] = field(default_factory=list)
    names: list[int] = field(default_factory=lambda: [0])  # shared with bodies, whose names must be their own

    def value(self, operator: str, inputs: Sequence[Value | None], kind: str, attributes: str = "") -> Value:
        """Apply an ONNX operator with one result of `kind`; None is an input that is left out."""
        result = self.name(kind)
        given = ", ".join("" if value is None else value.name for value in inputs)
        self.lines.append(f"{result.name} = {operator} {f'<{attributes}> ' if attributes else ''}({given})")
        return result

    def constant(self, kind: str, values: float | Sequence[float], shape: str = "") -> Value:
        """A number, or a list of them with its shape: "[3, 1, 1]"."""
        each = [values] if isinstance(values, (int, float)) else values
        text = ", ".join(repr(float(v)) if kind in ("float", "double") else str(int(v)) for v in each)
        return self.value("Constant", [], kind, f"value = {kind}{shape} {{{text}}}")

    def name(self, kind: str) -> Value:
        self.names[0] += 1
        return Value(self, f"v{self.names[0]}", kind)

    def where(self, condition: Value, yes: Value, no: Value) -> Value:
        assert yes.kind == no.kind
        return self.value("Where", [condition, yes, no], yes.kind)

    def range(self, count: Value) -> Value:
        """0, 1, ... count - 1."""
        return self.value("Range", [self.constant("int64", 0), count, self.constant("int64", 1)], "int64")

    def loop(
        self,
        count: Value,
        starts: Sequence[Value],
        shapes: Sequence[str],
        step: Callable[[Program, Value, list[Value]], Sequence[Value]],
    ) -> list[Value]:
        """Repeat `step(body, number of the turn, values) -> values`, beginning with `starts`; `shapes` are theirs."""
        body = Program(names=self.names)
        turn, keep, values = body.name("int64"), body.name("bool"), [body.name(value.kind) for value in starts]
        results = step(body, turn, values)
        again = body.value("Identity", [keep], "bool")
        inner = ", ".join(f"{v.kind}[{shape}] {v.name}" for v, shape in zip(values, shapes, strict=True))
        given = ", ".join(f"{v.kind}[{shape}] {v.name}" for v, shape in zip(results, shapes, strict=True))
        ends = [self.name(value.kind) for value in starts]
        self.lines.append(
            f"{', '.join(v.name for v in ends)} = Loop ({count.name}, {self.constant('bool', 1).name}, "
            f"{', '.join(v.name for v in starts)}) <body = body{turn.name} (int64 {turn.name}, bool {keep.name}, "
            f"{inner}) => (bool {again.name}, {given}) {{ {' '.join(body.lines)} }}>"
        )
        return ends

    def text(self, name: str, inputs: str, outputs: dict[str, Value], types: str, opset: int) -> str:
        """The whole program. inputs, types: "uint8[N, H, W, 3] image", of the inputs and of the outputs."""
        ends = [f"{given} = Identity ({value.name})" for given, value in outputs.items()]
        body = "\n".join(f"  {line}" for line in (*self.lines, *ends))
        header = f'<ir_version: {IR_VERSION}, opset_import: ["" : {opset}]>'
        return f"{header}\n{name} ({inputs}) => ({types}) {{\n{body}\n}}"


@dataclass(frozen=True)
class Value:
    """A result in a program. What is computed from it goes to the same program, where two meet to that of the left one.

    Numbers of Python become constants of the same kind.
    """

    program: Program
    name: str
    kind: str

    def _with(self, operator: str, other: Value | float, kind: str | None = None) -> Value:
        right = other if isinstance(other, Value) else self.program.constant(self.kind, other)
        assert right.kind == self.kind, f"{operator} of {self.kind} and {right.kind}"
        return self.program.value(operator, [self, right], kind or self.kind)

    def __add__(self, other: Value | float) -> Value:
        return self._with("Add", other)

    def __sub__(self, other: Value | float) -> Value:
        return self._with("Sub", other)

    def __mul__(self, other: Value | float) -> Value:
        return self._with("Mul", other)

    def __truediv__(self, other: Value | float) -> Value:
        return self._with("Div", other)

    def __lt__(self, other: Value | float) -> Value:
        return self._with("Less", other, "bool")

    def __le__(self, other: Value | float) -> Value:
        return self._with("LessOrEqual", other, "bool")

    def __gt__(self, other: Value | float) -> Value:
        return self._with("Greater", other, "bool")

    def equals(self, other: Value | float) -> Value:
        return self._with("Equal", other, "bool")

    def least(self, other: Value | float) -> Value:
        return self._with("Min", other)

    def most(self, other: Value | float) -> Value:
        return self._with("Max", other)

    def to(self, kind: str) -> Value:
        """Convert; from floating point to whole numbers it cuts off towards zero."""
        return self.program.value("Cast", [self], kind, f"to = {_NUMBERS[kind]}")

    def of(self, operator: str, attributes: str = "") -> Value:
        """An operator of this value alone: "Abs", "Floor", "Round"."""
        return self.program.value(operator, [self], self.kind, attributes)

    def length(self, axis: int) -> Value:
        """How long an axis is, as a number."""
        shape = self.program.value("Shape", [self], "int64", f"start = {axis}, end = {axis + 1}")
        return shape.of("Squeeze")

    def at(self, index: Value | int, axis: int = 0) -> Value:
        """The slices at `index` along an axis."""
        where = index if isinstance(index, Value) else self.program.constant("int64", index)
        return where.program.value("Gather", [self, where], self.kind, f"axis = {axis}")

    def column(self, axis: int = 1) -> Value:
        """With one more axis, of length 1."""
        return self.program.value("Unsqueeze", [self, self.program.constant("int64", [axis], "[1]")], self.kind)
