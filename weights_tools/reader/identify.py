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
    (b"version https://git-lfs", "the file is a git-LFS pointer, not the weights. Run `git lfs pull` and try again."),
    (b"\x93NUMPY", "the file is a NumPy array (.npy), not a checkpoint"),
    (b"\x1f\x8b", "the file is compressed with gzip. Decompress it with `gunzip` and try again."),
    (b"BZh", "the file is compressed with bzip2. Decompress it and try again."),
    (b"\xfd7zXZ", "the file is compressed with xz. Decompress it and try again."),
    (b"\x28\xb5\x2f\xfd", "the file is compressed with zstd. Decompress it and try again."),
    (b"7z\xbc\xaf\x27\x1c", "the file is a 7z archive. Unpack it and try again."),
    (b"Rar!", "the file is a RAR archive. Unpack it and try again."),
    (b"\x89PNG", "the file is a PNG image, not a checkpoint"),
    (b"\xff\xd8\xff", "the file is a JPEG image, not a checkpoint"),
    (b"GIF8", "the file is a GIF image, not a checkpoint"),
    (b"%PDF", "the file is a PDF document, not a checkpoint"),
    (b"\x89HDF", "the file is an HDF5 file, as written by Keras. Only PyTorch checkpoints can be converted."),
    (b"GGUF", "the file is a GGUF file. Only PyTorch checkpoints can be converted."),
    (b"\x7fELF", "the file is a program (ELF), not a checkpoint"),
    (b"MZ", "the file is a Windows program, not a checkpoint"),
)
_TAR = (
    "the file is a tar archive, as written by torch.save before 2016, which can't be read safely. If you trust it, "
    "load it once with torch.load(..., weights_only=False) of an old release in a closed environment, and save the "
    "state dict again."
)
EXPLAIN_DISTRIBUTED = (
    "Convert the folder to one file: `python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE`"
)
# Identifiers of flatbuffer files, at their fifth byte.
_FLATBUFFERS = {
    b"TFL3": "the file is a TensorFlow Lite model. Only PyTorch checkpoints can be converted.",
    b"ET12": "the file is an ExecuTorch program. Pass the checkpoint that it was exported from.",
    b"PTMF": "the file is a PyTorch Mobile program. Pass the checkpoint that it was exported from.",
}


def identify(head: bytes, size: int) -> str:
    """Identify the format of a file.

    Args:
        head: The first HEAD_BYTES of the file.
        size: Size of the whole file in bytes.

    Returns:
        "zip", "legacy", "pickle", "safetensors", "index" or "protobuf"; for any other file, the reason for refusing it,
        which begins with "the ".
    """
    if size == 0:
        return "the file is empty: the download or the copy failed. Repeat it."
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
        return "the file is probably a TensorFlow SavedModel. Only PyTorch checkpoints can be converted."
    if not any(head):
        return "the file begins with nothing but zero bytes: the download or the copy failed. Repeat it."
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lower = text[:200].lower()
    if lower.startswith((b"<!doctype html", b"<html", b"<head", b"<!--")):
        return "the file is a web page (HTML), so the download failed. Open the link in a browser, or download again."
    if lower.startswith((b"<?xml", b"<error")):
        return "the file is XML text, probably a server's error message. Download it again."
    if text.startswith((b"{", b"[")):
        return _explain_json(text, whole=size <= len(head))
    if _is_text(head):
        return f"the file is text that begins with {head[:40].decode('ascii', 'replace')!r}, not a checkpoint"
    if size < 100:
        return f"the file has only {size} bytes, too few for any checkpoint: it was truncated, or the download failed"
    return (
        f"the file is not a known kind of checkpoint (first bytes {head[:8].hex(' ')}). "
        "Files of torch.save, TorchScript archives and .safetensors can be read."
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
    return f"the file is JSON text{message}, not a checkpoint"


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
        return f"the folder is a distributed checkpoint (torch.distributed.checkpoint). {EXPLAIN_DISTRIBUTED}."
    if "latest" in names or any(n.startswith(("mp_rank_", "zero_pp_rank_", "global_step")) for n in names):
        return "the folder is a DeepSpeed checkpoint. Convert it to one file with its zero_to_fp32.py."
    if "data.pkl" in names:
        return "the folder is an unpacked checkpoint. Pass the .pth file itself, or zip the folder without compression."
    indices = [n for n in names if n.endswith(".index.json")]
    if indices:
        return f"the path is a folder. Pass the index in it, {indices[0]!r}."
    files = [n for n in names if n.endswith((".pth", ".pt", ".ckpt", ".safetensors", ".bin"))]
    hint = f", for example {files[0]!r}" if files else ""
    return f"the path is a folder. Pass a file in it{hint}."
