"""Read the text of an mmengine or mmcv config: Python source that only assigns plain values to names.

The text is parsed and never compiled. Literals, lists, tuples, dictionaries, `dict(a=1)`, signed numbers and previously
assigned names have a value; any other expression has the value OPAQUE. A statement that could change an earlier
value (a loop, a call, an assignment into a dictionary) makes the whole text unreadable.
Format: mmengine 0.10 config/config.py, Config.pretty_text.
"""

from __future__ import annotations

import ast
import warnings

from weights_tools.reader.values import Value

MAX_TEXT = 1 << 18  # in characters; the longest published mmsegmentation config has 42 thousand
_MAX_NODES = 100_000
_MAX_DEPTH = 40


class Opaque:
    """Value that only executing the text could produce."""


OPAQUE = Opaque()


class UnreadableTextError(ValueError):
    """A text that is not a plain config; the message is the reason."""


def read_text(text: str) -> dict[str, Value]:
    """Return the value that the text assigns to each name.

    Raises:
        UnreadableTextError: If the text is too long, is not Python, or does more than assign values.
    """
    if len(text) > MAX_TEXT:
        raise UnreadableTextError(f"too long for a config ({len(text):,} characters)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about invalid escapes in strings
            tree = ast.parse(text)
    # Nesting too deep for the parser raises MemoryError, and too deep for Python RecursionError.
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        raise UnreadableTextError("not Python, or nested too deep") from None
    return _Reader().statements(tree)


class _Reader:
    def __init__(self) -> None:
        self.names: dict[str, Value] = {}
        self.left = _MAX_NODES

    def statements(self, tree: ast.Module) -> dict[str, Value]:
        for statement in tree.body:
            if isinstance(statement, ast.Assign):
                value = self.value(statement.value, 0)
                for target in statement.targets:
                    self.assign(target, value)
            elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
                self.assign(statement.target, self.value(statement.value, 0))
            elif isinstance(statement, ast.Import | ast.ImportFrom):
                for alias in statement.names:
                    self.names[(alias.asname or alias.name).partition(".")[0]] = OPAQUE
            elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                raise UnreadableTextError(f"line {statement.lineno} does more than assign a value to a name")
        return self.names

    def assign(self, target: ast.expr, value: Value) -> None:
        if not isinstance(target, ast.Name):
            raise UnreadableTextError(f"line {target.lineno} does more than assign a value to a name")
        self.names[target.id] = value

    def value(self, node: ast.expr, depth: int) -> Value:
        self.left -= 1
        if self.left < 0:
            raise UnreadableTextError(f"more than {_MAX_NODES:,} values")
        if depth > _MAX_DEPTH:
            return OPAQUE
        if isinstance(node, ast.Constant):
            return node.value if node.value is None or isinstance(node.value, str | int | float) else OPAQUE
        if isinstance(node, ast.Name):
            return self.names.get(node.id, OPAQUE)
        if isinstance(node, ast.List | ast.Tuple):
            values = [self.value(item, depth + 1) for item in node.elts]
            return values if isinstance(node, ast.List) else tuple(values)
        if isinstance(node, ast.Dict):
            items = zip(node.keys, node.values, strict=True)
            return self.pairs([(self.key(key, depth), item) for key, item in items], depth)
        if isinstance(node, ast.Call):
            plain = isinstance(node.func, ast.Name) and node.func.id == "dict" and "dict" not in self.names
            keywords: list[tuple[Value, ast.expr]] = [(item.arg, item.value) for item in node.keywords]
            return self.pairs(keywords, depth) if plain and not node.args else OPAQUE
        return self.signed(node)

    def key(self, node: ast.expr | None, depth: int) -> Value:
        return None if node is None else self.value(node, depth + 1)

    def pairs(self, pairs: list[tuple[Value, ast.expr]], depth: int) -> Value:
        """Return a dictionary, or OPAQUE if it unpacks another one (`**other`) or has keys of other types.

        Such a key might override one that matters.
        """
        items: dict[Value, Value] = {}
        for key, node in pairs:
            if not isinstance(key, str | int | float):
                return OPAQUE
            items[key] = self.value(node, depth + 1)
        return items

    def signed(self, node: ast.expr) -> Value:
        if not isinstance(node, ast.UnaryOp) or not isinstance(node.operand, ast.Constant):
            return OPAQUE
        number = node.operand.value
        if isinstance(number, bool) or not isinstance(number, int | float):
            return OPAQUE
        if isinstance(node.op, ast.USub):
            return -number
        return number if isinstance(node.op, ast.UAdd) else OPAQUE
