"""Changes to pickles, opcode by opcode: those inside zip archives, those of legacy files, and bare ones."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

from fuzz.document import Document, Entry, split_pickle
from fuzz.edit_bytes import EDGES, change, times

_GLOBALS = (
    "torch FloatStorage", "torch QInt8Storage", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor_v3",
    "torch._utils _rebuild_parameter", "torch._utils _rebuild_sparse_tensor", "torch._tensor _rebuild_from_type_v2",
    "collections OrderedDict", "torch Size", "torch.jit._pickle restore_type_tag", "torch bfloat16", "os system",
    "builtins eval", "__builtin__ getattr", "numpy.core.multiarray scalar", "torch.nn.parameter Parameter",
    "torch.storage UntypedStorage", "__torch__.Net Net", "torch.jit._pickle build_tensor_from_id",
)  # fmt: skip
_TEXTS = (
    "", "storage", "0", "cpu", "module", "_parameters", "state_dict", "model", "a.b", "..", "\0", "\ud800", "\x1b[2J",
    "w" * 500,
)  # fmt: skip
# Opcodes without an argument: stack, memo, containers, calls, constants.
_BARE = [bytes((code,)) for code in b"(.0121)Nl]}dabtseo\x85\x86\x87\x88\x89R\x81\x8f\x90\x91\x92\x93\x94QPbq"]
_RUNS = (
    b"(KdKdt", b"]q\x00h\x00a", b"}q\x00h\x00h\x00s", b"h\x00h\x00\x86q\x00", b"(h\x00h\x00h\x00l", b"2", b"(",
    b"\x8c\x01ah\x00s", b")\x81", b"}b", b"((t(t", b"cos\nsystem\n(S'true'\ntR", b"(S'storage'\nctorch\nFloatStorage\n",
)  # fmt: skip


def _numbers(rng: random.Random) -> bytes:
    value = rng.choice(EDGES) if rng.random() < 0.7 else rng.randrange(64)
    kind = rng.randrange(6)
    if kind == 0:
        return b"K" + bytes((value & 255,))
    if kind == 1:
        return b"J" + (value & (1 << 32) - 1).to_bytes(4, "little")
    if kind == 2:
        return b"I%d\n" % value
    if kind == 3:
        return b"G" + struct.pack(">d", rng.choice((0.0, -1.0, float("nan"), float("inf"), float(value))))
    if kind == 4:
        return rng.choice((b"L%dL\n" % value, b"I" + b"9" * rng.choice((20, 500, 4299, 5000)) + b"\n"))
    data = value.to_bytes(10, "little", signed=True)
    return b"\x8a\x0a" + data


def _texts(rng: random.Random) -> bytes:
    data = rng.choice(_TEXTS).encode("utf-8", "surrogatepass")
    length = len(data)
    if rng.random() < 0.1:
        length = rng.choice(EDGES)
    kind = rng.randrange(6)
    if kind == 0:
        return b"X" + (length & (1 << 32) - 1).to_bytes(4, "little") + data
    if kind == 1:
        return rng.choice((b"\x8d", b"\x8e", b"\x96")) + (length & (1 << 64) - 1).to_bytes(8, "little") + data
    if kind == 2:
        return b"S'" + data + b"'\n"
    if kind == 3:
        return b"V" + data.replace(b"\n", b"") + b"\n"
    return rng.choice((b"\x8c", b"U", b"C")) + bytes((length & 255,)) + data[:255]


def _new(rng: random.Random) -> bytes:
    """An opcode, or a few that belong together."""
    kind = rng.randrange(8)
    if kind == 0:
        return _numbers(rng)
    if kind == 1:
        return _texts(rng)
    if kind == 2:
        module, name = rng.choice(_GLOBALS).split()
        return rng.choice((b"c", b"i")) + f"{module}\n{name}\n".encode()
    if kind == 3:
        return rng.choice((b"h", b"q")) + bytes((rng.randrange(30),))
    if kind == 4:
        return rng.choice((b"j", b"r")) + (rng.choice(EDGES) & (1 << 32) - 1).to_bytes(4, "little")
    if kind == 5:
        return rng.choice(_RUNS)
    return rng.choice(_BARE)


def _changed(ops: list[bytes], rng: random.Random, pool: Sequence[bytes]) -> list[bytes]:
    """One change to a list of opcodes."""
    at = rng.randrange(len(ops) + 1)
    span = rng.choice((1, 1, 1, 2, 5, 20))
    kind = rng.randrange(9)
    if kind == 0:
        return ops[:at] + ops[at + span :]
    if kind == 1:
        return [*ops[:at], _new(rng), *ops[at:]]
    if kind == 2:
        return [*ops[:at], _new(rng), *ops[at + 1 :]]
    if kind == 3:
        piece = ops[at : at + span]
        return ops[:at] + piece * (times(rng, sum(map(len, piece))) + 1) + ops[at + span :]
    if kind == 4:
        to = rng.randrange(len(ops) + 1)
        return ops[:to] + ops[at : at + span] + ops[to:]
    if kind == 5:
        other = split_pickle(rng.choice(pool)) or (b"N",)
        there = rng.randrange(len(other))
        return ops[:at] + list(other[there : there + span]) + ops[at:]
    if kind == 6:
        run = rng.choice(_RUNS)
        return [*ops[:at], run * times(rng, len(run)), *ops[at:]]
    # What the opcode carries: a text keeps its length, so that the opcodes behind it stay opcodes.
    numbers = [i for i, op in enumerate(ops) if op[:1] in (b"K", b"M", b"J", b"\x8a", b"G")]
    texts = [i for i, op in enumerate(ops) if op[:1] in (b"X", b"\x8c", b"c")]
    if kind == 7 and numbers:
        ops[rng.choice(numbers)] = _numbers(rng)
    elif texts:
        where = rng.choice(texts)
        ops[where] = change(ops[where], rng, pool) if rng.random() < 0.3 else _texts(rng)
    return ops


def _pick(document: Document, rng: random.Random) -> Entry | None:
    pickles = [entry for entry in document.entries if entry.name.endswith(b".pkl")]
    main = [entry for entry in pickles if entry.name.endswith(b"/data.pkl")]
    chosen = main if main and rng.random() < 0.95 else pickles
    return rng.choice(chosen) if chosen else None


def opcodes(document: Document, rng: random.Random, pool: Sequence[bytes]) -> None:
    """One to six changes to the opcodes of a pickle."""
    changes = rng.choice((1, 1, 1, 2, 3, 6))
    entry = _pick(document, rng) if document.kind == "zip" else None
    if entry is not None and len(entry.data) < 1 << 20:
        ops = list(split_pickle(entry.data))
        for _ in range(changes):
            ops = _changed(ops, rng, pool)
        entry.data = b"".join(ops)
    elif document.pickles:
        # The fourth pickle of a legacy file is the one that holds the weights.
        which = 3 if len(document.pickles) == 5 and rng.random() < 0.7 else rng.randrange(len(document.pickles))
        for _ in range(changes):
            document.pickles[which] = _changed(document.pickles[which], rng, pool)


def inner_bytes(document: Document, rng: random.Random, pool: Sequence[bytes]) -> None:
    """A pickle as bytes; behind the pickles of a legacy file, the storages."""
    if document.kind == "zip":
        entry = _pick(document, rng)
        if entry is not None:
            entry.data = change(entry.data, rng, pool)
    else:
        document.tail = change(document.tail, rng, pool)


EDITS: dict[str, Callable[[Document, random.Random, Sequence[bytes]], None]] = {
    f"pickle {f.__name__}": f for f in (opcodes, inner_bytes)
}
