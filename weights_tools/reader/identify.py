"""Identify a file by its first bytes, ignoring its name.

For anything but a readable checkpoint, the result explains what the file is and what to do instead.
"""

from __future__ import annotations

import json
from pathlib import Path

HEAD_BYTES = 4096
LEGACY_MAGIC = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # the pickled magic number of torch.save before 1.6

# First bytes of files without readable weights: what the file is, and what to do.
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "it is a git-LFS pointer, not the file itself; run `git lfs pull` and try again"),
    (b"\x93NUMPY", "it is a NumPy array (.npy), not a checkpoint"),
    (b"\x1f\x8b", "it is compressed with gzip; unpack it with `gunzip` and try again"),
    (b"BZh", "it is compressed with bzip2; unpack it and try again"),
    (b"\xfd7zXZ", "it is compressed with xz; unpack it and try again"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd; unpack it and try again"),
    (b"7z\xbc\xaf\x27\x1c", "it is a 7z archive; unpack it and try again"),
    (b"Rar!", "it is a RAR archive; unpack it and try again"),
    (b"\x89PNG", "it is a PNG picture, not a checkpoint"),
    (b"\xff\xd8\xff", "it is a JPEG picture, not a checkpoint"),
    (b"GIF8", "it is a GIF picture, not a checkpoint"),
    (b"%PDF", "it is a PDF document, not a checkpoint"),
    (b"\x89HDF", "it is an HDF5 file, as Keras writes it; only PyTorch checkpoints can be converted"),
    (b"GGUF", "it is a GGUF file; only PyTorch checkpoints can be converted"),
    (b"\x7fELF", "it is a program, not a checkpoint"),
    (b"MZ", "it is a Windows program, not a checkpoint"),
)
_TAR = (
    "it is a tar archive, as torch.save wrote before 2016; it can't be read safely. If you trust it, load it once with "
    "torch.load(..., weights_only=False) of an old release in a closed environment and save the state dict again"
)
EXPLAIN_DISTRIBUTED = (
    "make one file of its folder with `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`"
)
# Identifiers of flatbuffer files, at their fifth byte.
_FLATBUFFERS = {
    b"TFL3": "it is a TensorFlow Lite model; only PyTorch checkpoints can be converted",
    b"ET12": "it is an ExecuTorch program; give the checkpoint that it was exported from",
    b"PTMF": "it is a PyTorch Mobile program; give the checkpoint that it was exported from",
}


def identify(head: bytes, size: int) -> str:
    """Identify the format of a file.

    Args:
        head: The first HEAD_BYTES of the file.
        size: Size of the whole file in bytes.

    Returns:
        "zip", "legacy", "pickle", "safetensors", "index" or "protobuf"; for any other file, the reason for refusing it,
        which begins with "it ".
    """
    if size == 0:
        return "it is empty; the download or the copy failed"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head.startswith(LEGACY_MAGIC):
        return "legacy"
    if _looks_like_safetensors(head, size):
        return "safetensors"
    for signature, reason in _SIGNATURES:
        if head.startswith(signature):
            return reason
    if _looks_like_index(head):
        return "index"
    if head[257:262] == b"ustar":
        return _TAR
    if len(head) >= 2 and head[0] == 0x80 and head[1] <= 5:
        return "pickle"
    if head[:1] == b"\x08":  # field 1 of a protobuf message, a number, as in every ONNX model
        return "protobuf"
    return explain_other(head, size)


def _looks_like_safetensors(head: bytes, size: int) -> bool:
    if size < 10:
        return False
    header = int.from_bytes(head[:8], "little")
    start = head[8:].removeprefix(b"\xef\xbb\xbf").lstrip()
    # Lenient on purpose: reader.safetensors_file is strict and explains what is wrong.
    return start.startswith(b"{") and (header < 1 << 40 or start.startswith((b'{"', b"{}")))


def _looks_like_index(head: bytes) -> bool:
    """Return whether the file is JSON that lists the files of a checkpoint; `reader.shards` checks the content."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") and b'"weight_map"' in head


def explain_other(head: bytes, size: int) -> str:
    """Describe a file without a known signature: text, zeros, or a model of another project."""
    if head[4:8] in _FLATBUFFERS:
        return _FLATBUFFERS[head[4:8]]
    if head.startswith(b"\x08\x01\x12"):
        return "it is probably a TensorFlow SavedModel; only PyTorch checkpoints can be converted"
    if not any(head):
        return "it begins with nothing but zero bytes; the download or the copy failed"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lower = text[:200].lower()
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")):
        return "it is a web page (HTML), so the download failed; open the link in a browser, or download again"
    if lower.startswith((b"<?xml", b"<error")):
        return "it is an XML text, probably an error message of the server; download it again"
    if text.startswith((b"{", b"[")):
        return _explain_json(text, whole=size <= len(head))
    if _is_text(head):
        return f"it is a text that begins with {head[:40].decode('ascii', 'replace')!r}, not a checkpoint"
    if size < 100:
        return f"it has only {size} bytes, too few for any checkpoint; it was cut off, or the download failed"
    return (
        f"it is no checkpoint that is known here (first bytes {head[:8].hex(' ')}); "
        "files of torch.save, TorchScript archives and .safetensors can be read"
    )


def _explain_json(text: bytes, *, whole: bool) -> str:
    message = ""
    if whole:
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            content = None
        said = (
            next((content[k] for k in ("message", "error") if k in content), None)
            if isinstance(content, dict)
            else None
        )
        if isinstance(said, str):
            message = f" that says {said[:80]!r}, so the download failed"
    return f"it is a JSON text{message}, not a checkpoint"


def _is_text(head: bytes) -> bool:
    try:
        text = head[:512].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head[:512]) - 4:
            return False
        text = head[: error.start].decode("utf-8")
    return all(c.isprintable() or c in "\r\n\t" for c in text)


def explain_folder(path: Path) -> str:
    """Describe a folder that was given instead of a file."""
    try:
        names = sorted(item.name for item in path.iterdir())[:10_000]
    except OSError:
        names = []
    if ".metadata" in names and any(n.endswith(".distcp") for n in names):
        return f"it is a distributed checkpoint (torch.distributed.checkpoint); {EXPLAIN_DISTRIBUTED}"
    if "latest" in names or any(n.startswith(("mp_rank_", "zero_pp_rank_", "global_step")) for n in names):
        return "it is a DeepSpeed checkpoint; make one file of it with the zero_to_fp32.py that lies in it"
    if "data.pkl" in names:
        return "it is an unpacked checkpoint; give the .pth file itself, or zip the folder again without compression"
    indices = [n for n in names if n.endswith(".index.json")]
    if indices:
        return f"it is a folder; give the index in it, {indices[0]!r}"
    files = [n for n in names if n.endswith((".pth", ".pt", ".ckpt", ".safetensors", ".bin"))]
    hint = f", for instance {files[0]!r}" if files else ""
    return f"it is a folder; name a file in it{hint}"
