"""Write small ONNX graphs like numpy code: `(a + 0.5).to("float")` becomes lines of ONNX's text syntax.

Every value has a dtype, "float", "double", "int64", "uint8", "int16" or "bool", and is never converted implicitly:
these graphs control every rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_NUMBERS = {"float": 1, "uint8": 2, "int16": 5, "int64": 7, "bool": 9, "double": 11}
IR_VERSION = 10


@dataclass
class Program:
    """A graph, or the body of a loop in it.

    Attributes:
        lines: Lines of text.
        names: Counter of names, in a list that loop bodies share, because their names must be unique too.
    """

    lines: list[str] = field(default_factory=list)
    names: list[int] = field(default_factory=lambda: [0])

    def value(self, operator: str, inputs: Sequence[Value | None], kind: str, attributes: str = "") -> Value:
        """Apply an ONNX operator that returns one value.

        Args:
            operator: Name of the operator.
            inputs: Inputs; None omits an optional one.
            kind: Dtype of the result.
            attributes: Attributes in ONNX's text syntax.
        """
        result = self.name(kind)
        given = ", ".join("" if value is None else value.name for value in inputs)
        self.lines.append(f"{result.name} = {operator} {f'<{attributes}> ' if attributes else ''}({given})")
        return result

    def constant(self, kind: str, values: float | Sequence[float], shape: str = "") -> Value:
        """Add a constant: a number, or numbers with a shape such as "[3, 1, 1]"."""
        each = [values] if isinstance(values, (int, float)) else values
        text = ", ".join(repr(float(v)) if kind in ("float", "double") else str(int(v)) for v in each)
        return self.value("Constant", [], kind, f"value = {kind}{shape} {{{text}}}")

    def name(self, kind: str) -> Value:
        """Return a value of `kind` with a new name."""
        self.names[0] += 1
        return Value(self, f"v{self.names[0]}", kind)

    def where(self, condition: Value, yes: Value, no: Value) -> Value:
        """Choose elements of `yes` or `no`."""
        assert yes.kind == no.kind
        return self.value("Where", [condition, yes, no], yes.kind)

    def range(self, count: Value) -> Value:
        """Return 0, 1, ... count - 1."""
        return self.value("Range", [self.constant("int64", 0), count, self.constant("int64", 1)], "int64")

    def loop(
        self,
        count: Value,
        starts: Sequence[Value],
        shapes: Sequence[str],
        step: Callable[[Program, Value, list[Value]], Sequence[Value]],
    ) -> list[Value]:
        """Repeat a step.

        Args:
            count: Number of iterations.
            starts: Initial values.
            shapes: Shapes of these values in ONNX's text syntax.
            step: Function from the body, the iteration number and the values to the next values.

        Returns:
            The values after the last iteration.
        """
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
        """Return the whole graph as text.

        Args:
            name: Name of the graph.
            inputs: Inputs with their types, such as "uint8[N, H, W, 3] image".
            outputs: Values to return, by name.
            types: Outputs with their types, like `inputs`.
            opset: ONNX operator set.
        """
        ends = [f"{given} = Identity ({value.name})" for given, value in outputs.items()]
        body = "\n".join(f"  {line}" for line in (*self.lines, *ends))
        header = f'<ir_version: {IR_VERSION}, opset_import: ["" : {opset}]>'
        return f"{header}\n{name} ({inputs}) => ({types}) {{\n{body}\n}}"


@dataclass(frozen=True)
class Value:
    """A value in a graph. Python's operators add nodes to the graph of their left operand.

    Numbers become constants of the same dtype.

    Attributes:
        program: Graph that computes the value.
        name: Name in the graph.
        kind: Dtype.
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
        """Compare elementwise."""
        return self._with("Equal", other, "bool")

    def least(self, other: Value | float) -> Value:
        """Return the smaller of the two, elementwise."""
        return self._with("Min", other)

    def most(self, other: Value | float) -> Value:
        """Return the larger of the two, elementwise."""
        return self._with("Max", other)

    def to(self, kind: str) -> Value:
        """Convert to another dtype; floating point is truncated towards zero."""
        return self.program.value("Cast", [self], kind, f"to = {_NUMBERS[kind]}")

    def of(self, operator: str, attributes: str = "") -> Value:
        """Apply a unary operator, such as "Abs", "Floor" or "Round"."""
        return self.program.value(operator, [self], self.kind, attributes)

    def length(self, axis: int) -> Value:
        """Return the length of an axis as a scalar."""
        shape = self.program.value("Shape", [self], "int64", f"start = {axis}, end = {axis + 1}")
        return shape.of("Squeeze")

    def at(self, index: Value | int, axis: int = 0) -> Value:
        """Return the slices at `index` along an axis."""
        where = index if isinstance(index, Value) else self.program.constant("int64", index)
        return where.program.value("Gather", [self, where], self.kind, f"axis = {axis}")

    def column(self, axis: int = 1) -> Value:
        """Insert an axis of length 1."""
        return self.program.value("Unsqueeze", [self, self.program.constant("int64", [axis], "[1]")], self.kind)
