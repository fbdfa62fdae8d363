"""A pickle machine that builds inert values only.

The machine implements the opcodes documented in `pickletools` (protocols 0 to 5, as far as torch writes them). A named
global is recorded, not imported. A call is described (`Foreign`), not made, except for the few constructors in
`reader._constructors`. Opcodes, memo slots and stack slots are limited, so no file can run for long.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from segnets.errors import WeightsError
from segnets.garbage_collection import without_garbage_collection
from weights_tools.reader.limits import MAX_GLOBALS, MAX_MEMO, MAX_OPCODES, MAX_PICKLE_BYTES, MAX_STACK
from weights_tools.reader.values import Foreign, Global, OpaqueKey, Value

Construct = Callable[["Machine", Global, tuple[Value, ...]], Value]
PersistentLoad = Callable[[Value], Value]


class Mark:
    """Mark on the pickle stack."""

    __slots__ = ()


MARK = Mark()


class Machine:
    """Machine for the pickle that starts at `start` of `data`; after `run`, `position` is the byte after the pickle."""

    def __init__(self, data: memoryview, start: int, construct: Construct, persistent_load: PersistentLoad) -> None:
        self.data = data
        self.position = start
        self.end = min(len(data), start + MAX_PICKLE_BYTES)
        self.stack: list[Value] = []
        self.memo: dict[int, Value] = {}
        self.budget = MAX_OPCODES
        self.globals: dict[str, None] = {}  # dotted names, in order of appearance
        self.construct = construct
        self.persistent_load = persistent_load

    def run(self) -> Value:
        """Return the value that the pickle describes.

        Raises:
            WeightsError: If the pickle is damaged, exceeds a limit, or uses an opcode that no checkpoint needs.
        """
        from weights_tools.reader._opcodes import OPCODES  # _opcodes imports this module

        try:
            with without_garbage_collection():  # a collection would traverse millions of nested values each time
                while True:
                    code = self.take(1)[0]
                    if code == 0x2E:  # STOP
                        return self.pop()
                    step = OPCODES.get(code)
                    if step is None:
                        raise WeightsError(f"the pickle uses the opcode {code:#04x}, which no checkpoint needs")
                    self.spend(1)
                    step(self)
        except WeightsError:
            raise
        except (ValueError, TypeError, LookupError, OverflowError, struct.error, RecursionError) as error:
            raise WeightsError(f"the pickle is damaged near byte {self.position} ({type(error).__name__})") from None

    def spend(self, steps: int) -> None:
        self.budget -= steps
        if self.budget < 0:
            raise WeightsError(f"the pickle takes more than {MAX_OPCODES:,} steps, which no checkpoint needs")

    def take(self, count: int) -> memoryview:
        start = self.position
        if count < 0 or start + count > self.end:
            if self.end < len(self.data):
                raise WeightsError(f"the pickle is longer than {MAX_PICKLE_BYTES:,} bytes, which no checkpoint needs")
            raise WeightsError("the pickle ends early: the file is damaged or truncated. Download or copy it again.")
        self.position = start + count
        return self.data[start : self.position]

    def take_line(self) -> bytes:
        window = bytes(self.data[self.position : min(self.end, self.position + 4096)])
        found = window.find(b"\n")
        if found < 0:
            raise WeightsError("the pickle has a line of text without an end: the file is damaged")
        self.position += found + 1
        return window[:found]

    def unsigned(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def push(self, value: Value) -> None:
        if len(self.stack) >= MAX_STACK:
            raise WeightsError(f"the pickle stacks more than {MAX_STACK:,} values, which no checkpoint needs")
        self.stack.append(value)

    def pop(self) -> Value:
        value = self.stack.pop()
        if value is MARK:
            raise WeightsError("the pickle is damaged: a value is missing from the stack")
        return value

    def pop_to_mark(self) -> list[Value]:
        stack = self.stack
        index = len(stack) - 1
        while index >= 0 and stack[index] is not MARK:
            index -= 1
        if index < 0:
            raise WeightsError("the pickle is damaged: a mark is missing from the stack")
        items = stack[index + 1 :]
        del stack[index:]
        self.spend(len(items))
        return items

    def top(self) -> Value:
        if not self.stack or self.stack[-1] is MARK:
            raise WeightsError("the pickle is damaged: a value is missing from the stack")
        return self.stack[-1]

    def remember(self, index: int) -> None:
        if len(self.memo) >= MAX_MEMO:
            raise WeightsError(f"the pickle memoizes more than {MAX_MEMO:,} values, which no checkpoint needs")
        self.memo[index] = self.top()

    def recall(self, index: int) -> None:
        if index not in self.memo:
            raise WeightsError("the pickle is damaged: a value is recalled that was never stored")
        self.push(self.memo[index])

    def note_global(self, module: str, name: str) -> None:
        found = Global(module, name)
        self.globals.setdefault(found.dotted)
        if len(self.globals) > MAX_GLOBALS:
            raise WeightsError(f"the pickle names more than {MAX_GLOBALS:,} classes, which no checkpoint needs")
        self.push(found)

    def call(self, target: Value, args: Value) -> Value:
        if isinstance(target, Global) and isinstance(args, tuple):
            return self.construct(self, target, args)
        return Foreign(target if isinstance(target, Global) else None, args)

    def set_item(self, target: Value, key: Value, value: Value) -> None:
        if not isinstance(target, dict):
            return  # an item of a foreign container, which is ignored
        # Hashing or comparing any other key could take forever. Optimizers use small integers as keys.
        plain = type(key) is str or (type(key) is int and abs(key) < 1 << 31)
        safe = key if plain else OpaqueKey()
        if safe in target:
            raise WeightsError(f"a dictionary in the pickle holds the key {str(safe)[:80]!r} twice")
        target[safe] = value
