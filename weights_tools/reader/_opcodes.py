"""The opcodes of the pickle machine: a table from byte to action.

Names and meanings are those of CPython's Lib/pickletools.py. Opcodes for out-of-band buffers and the extension
registry are missing, because no checkpoint uses them.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable

from segnets.errors import WeightsError
from weights_tools.reader._machine import MARK, Machine
from weights_tools.reader.limits import MAX_DIGITS, MAX_INTEGER_BYTES
from weights_tools.reader.values import Foreign, Global, Value

Step = Callable[[Machine], None]
OPCODES: dict[int, Step] = {}


def on(opcode: bytes) -> Callable[[Step], Step]:
    def register(step: Step) -> Step:
        OPCODES[opcode[0]] = step
        return step

    return register


def constant(opcode: bytes, value: Value) -> None:
    OPCODES[opcode[0]] = lambda m: m.push(value)


def text_of(width: int) -> Step:
    return lambda m: m.push(str(m.take(m.unsigned(width)), "utf-8", "surrogatepass"))


def old_text_of(width: int) -> Step:
    def step(m: Machine) -> None:
        data = bytes(m.take(m.unsigned(width)))  # a Python 2 string, which may contain any bytes
        try:
            m.push(data.decode())
        except UnicodeDecodeError:
            m.push(data)

    return step


def bytes_of(width: int) -> Step:
    return lambda m: m.push(bytes(m.take(m.unsigned(width))))


def unsigned_of(width: int) -> Step:
    return lambda m: m.push(m.unsigned(width))


def long_of(width: int) -> Step:
    def step(m: Machine) -> None:
        length = m.unsigned(width)
        if length > MAX_INTEGER_BYTES:
            raise WeightsError(f"the pickle holds an integer of {length:,} bytes, which no checkpoint needs")
        m.push(int.from_bytes(m.take(length), "little", signed=True))

    return step


constant(pickle.NONE, None)
constant(pickle.NEWTRUE, True)
constant(pickle.NEWFALSE, False)
constant(pickle.EMPTY_TUPLE, ())
constant(pickle.MARK, MARK)
OPCODES[pickle.EMPTY_LIST[0]] = lambda m: m.push([])
OPCODES[pickle.EMPTY_DICT[0]] = lambda m: m.push({})
OPCODES[pickle.EMPTY_SET[0]] = lambda m: m.push([])
OPCODES.update(
    {
        pickle.BINUNICODE[0]: text_of(4),
        pickle.SHORT_BINUNICODE[0]: text_of(1),
        pickle.BINUNICODE8[0]: text_of(8),
        pickle.BINSTRING[0]: old_text_of(4),
        pickle.SHORT_BINSTRING[0]: old_text_of(1),
        pickle.BINBYTES[0]: bytes_of(4),
        pickle.SHORT_BINBYTES[0]: bytes_of(1),
        pickle.BINBYTES8[0]: bytes_of(8),
        pickle.BYTEARRAY8[0]: bytes_of(8),
        pickle.BININT1[0]: unsigned_of(1),
        pickle.BININT2[0]: unsigned_of(2),
        pickle.LONG1[0]: long_of(1),
        pickle.LONG4[0]: long_of(4),
        pickle.BINPUT[0]: lambda m: m.remember(m.unsigned(1)),
        pickle.LONG_BINPUT[0]: lambda m: m.remember(m.unsigned(4)),
        pickle.MEMOIZE[0]: lambda m: m.remember(len(m.memo)),
        pickle.BINGET[0]: lambda m: m.recall(m.unsigned(1)),
        pickle.LONG_BINGET[0]: lambda m: m.recall(m.unsigned(4)),
    }
)


@on(pickle.PROTO)
def proto(m: Machine) -> None:
    version = m.take(1)[0]
    if version > 5:
        raise WeightsError(f"the pickle has the unknown protocol {version} (the newest is 5)")


@on(pickle.FRAME)
def frame(m: Machine) -> None:
    m.take(8)  # a hint for reading ahead


@on(pickle.BININT)
def binint(m: Machine) -> None:
    m.push(int.from_bytes(m.take(4), "little", signed=True))


@on(pickle.BINFLOAT)
def binfloat(m: Machine) -> None:
    m.push(struct.unpack(">d", m.take(8))[0])


@on(pickle.INT)
@on(pickle.LONG)
def text_int(m: Machine) -> None:
    line = m.take_line()
    if line in (b"00", b"01"):
        m.push(line == b"01")
    elif len(line) > MAX_DIGITS:
        raise WeightsError(f"the pickle holds an integer of {len(line):,} digits, which no checkpoint needs")
    else:
        m.push(int(line.removesuffix(b"L")))


@on(pickle.FLOAT)
def text_float(m: Machine) -> None:
    m.push(float(m.take_line()))


@on(pickle.STRING)
def text_string(m: Machine) -> None:
    line = m.take_line()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in b"'\"" or b"\\" in line:
        raise WeightsError("the pickle holds a quoted string with escapes, which no checkpoint needs")
    m.push(line[1:-1].decode())


@on(pickle.UNICODE)
def text_unicode(m: Machine) -> None:
    m.push(m.take_line().decode("raw-unicode-escape"))


@on(pickle.GET)
def text_get(m: Machine) -> None:
    m.recall(int(m.take_line()))


@on(pickle.PUT)
def text_put(m: Machine) -> None:
    m.remember(int(m.take_line()))


@on(pickle.POP)
def pop(m: Machine) -> None:
    m.stack.pop()


@on(pickle.POP_MARK)
def pop_mark(m: Machine) -> None:
    m.pop_to_mark()


@on(pickle.DUP)
def dup(m: Machine) -> None:
    m.push(m.top())


@on(pickle.TUPLE)
def build_tuple(m: Machine) -> None:
    m.push(tuple(m.pop_to_mark()))


def tuple_of(count: int) -> Step:
    def step(m: Machine) -> None:
        items = [m.pop() for _ in range(count)]
        m.push(tuple(reversed(items)))

    return step


OPCODES[pickle.TUPLE1[0]] = tuple_of(1)
OPCODES[pickle.TUPLE2[0]] = tuple_of(2)
OPCODES[pickle.TUPLE3[0]] = tuple_of(3)


@on(pickle.LIST)
@on(pickle.FROZENSET)
def build_list(m: Machine) -> None:
    m.push(m.pop_to_mark())


@on(pickle.DICT)
def build_dict(m: Machine) -> None:
    items = m.pop_to_mark()
    target: dict[Value, Value] = {}
    set_pairs(m, target, items)
    m.push(target)


@on(pickle.APPEND)
def append(m: Machine) -> None:
    item, target = m.pop(), m.top()
    if isinstance(target, list):
        target.append(item)


@on(pickle.APPENDS)
@on(pickle.ADDITEMS)
def appends(m: Machine) -> None:
    items, target = m.pop_to_mark(), m.top()
    if isinstance(target, list):
        target.extend(items)


@on(pickle.SETITEM)
def setitem(m: Machine) -> None:
    value, key = m.pop(), m.pop()
    m.set_item(m.top(), key, value)


@on(pickle.SETITEMS)
def setitems(m: Machine) -> None:
    items = m.pop_to_mark()
    set_pairs(m, m.top(), items)


def set_pairs(m: Machine, target: Value, items: list[Value]) -> None:
    if len(items) % 2:
        raise WeightsError("the pickle is damaged: a dictionary has a key without a value")
    for index in range(0, len(items), 2):
        m.set_item(target, items[index], items[index + 1])


@on(pickle.GLOBAL)
def text_global(m: Machine) -> None:
    module = m.take_line().decode()
    m.note_global(module, m.take_line().decode())


@on(pickle.STACK_GLOBAL)
def stack_global(m: Machine) -> None:
    name, module = m.pop(), m.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise WeightsError("the pickle is damaged: a class name is not text")
    m.note_global(module, name)


@on(pickle.REDUCE)
@on(pickle.NEWOBJ)
def reduce(m: Machine) -> None:
    args, target = m.pop(), m.pop()
    m.push(m.call(target, args))


@on(pickle.NEWOBJ_EX)
def newobj_ex(m: Machine) -> None:
    _keywords, args, target = m.pop(), m.pop(), m.pop()
    m.push(Foreign(target if isinstance(target, Global) else None, args))


@on(pickle.INST)
def inst(m: Machine) -> None:
    module = m.take_line().decode()
    m.note_global(module, m.take_line().decode())
    target = m.pop()
    m.push(m.call(target, tuple(m.pop_to_mark())))


@on(pickle.OBJ)
def obj(m: Machine) -> None:
    items = m.pop_to_mark()
    if not items:
        raise WeightsError("the pickle is damaged: an object has no class")
    m.push(m.call(items[0], tuple(items[1:])))


@on(pickle.BUILD)
def build(m: Machine) -> None:
    state, target = m.pop(), m.top()
    if isinstance(target, Foreign):
        target.state = state
    # The state of an OrderedDict is the module versions of a state dict (`_metadata`), which nothing here needs.


@on(pickle.PERSID)
def text_persid(_machine: Machine) -> None:
    raise WeightsError("the pickle refers to storages by text, which no release of torch does")


@on(pickle.BINPERSID)
def binpersid(m: Machine) -> None:
    m.push(m.persistent_load(m.pop()))
