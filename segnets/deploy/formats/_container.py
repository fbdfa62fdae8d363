"""Open an exported file: find its format, check that it is complete and undamaged, and read the files in it.

Nothing in the file is executed.
"""

from __future__ import annotations

import io
import zipfile
import zlib

from segnets.deploy.contract import CONTRACT_FILE
from segnets.deploy.formats._base import Container
from segnets.deploy.formats.onnx.container import OnnxContainer, looks_like_onnx
from segnets.errors import ExportError

# Folder of our files in an archive of each kind. torch's loader reads everything in "extra" as text, so a .pt2
# with binary files needs another folder.
FOLDERS = {"torchscript": "extra", "aoti": "segnets"}
_MAX_CONTRACT_BYTES = 16 << 20
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}  # that LibTorch reads


def open_container(data: bytes, where: str) -> Container:
    """Open the bytes of an exported file.

    Args:
        data: Contents of the file.
        where: Name of the file, for messages.

    Raises:
        ExportError: If the file is damaged, or segnets did not export it.
    """
    return OnnxContainer(data, where) if looks_like_onnx(data) else ZipContainer(data, where)


class ZipContainer:
    """A TorchScript archive or a `.pt2`.

    Every checksum in it is compared, which LibTorch does not do.

    Args:
        data: Contents of the file.
        where: Name of the file, for messages.

    Raises:
        ExportError: If the archive is damaged, or segnets did not export it.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where = data, where
        self._archive = _open_archive(data, where)
        names = self._archive.namelist()
        prefix = names[0].split("/")[0] + "/" if names else ""
        if len(set(names)) != len(names):
            raise ExportError(f"{where}: is ambiguous: it has two entries with the same name. Export the model again")
        self.kind = _kind_of(names, prefix, where)
        self._folder = f"{prefix}{FOLDERS[self.kind]}/"
        if self._folder + CONTRACT_FILE not in names:
            what = "TorchScript" if self.kind == "torchscript" else "an archive of torch.export"
            raise ExportError(f"{where}: is {what}, but has no {CONTRACT_FILE}: it was not made by segnets.export")
        if self._archive.getinfo(self._folder + CONTRACT_FILE).file_size > _MAX_CONTRACT_BYTES:
            raise ExportError(f"{where}: {CONTRACT_FILE} is too large for a contract. Export the model again")

    def read(self, name: str) -> bytes:
        """Return the contents of one of segnets' files in the archive.

        Raises:
            ExportError: If the archive has no such file.
        """
        if self._folder + name not in self._archive.namelist():
            raise ExportError(f"{self.where}: has no {name}. Export the model again")
        return self._archive.read(self._folder + name)


def _open_archive(data: bytes, where: str) -> zipfile.ZipFile:
    if not data:
        raise ExportError(f"{where}: is empty")
    if not data.startswith(b"PK\x03\x04"):
        raise ExportError(
            f"{where}: is not a TorchScript archive{_other_type(data)}. Export a model with segnets.export"
        )
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        if methods := {entry.compress_type for entry in archive.infolist()} - _METHODS:
            raise zipfile.BadZipFile(f"compression method {min(methods)}")
        damaged = archive.testzip()
    # zipfile raises RuntimeError for an entry with a password, and lets zlib's own error through.
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, OSError, zlib.error) as error:
        raise ExportError(f"{where}: is truncated or damaged ({error}). Copy or export it again") from None
    if damaged is not None:
        raise ExportError(f"{where}: is damaged: the checksum of {damaged!r} is wrong. Copy or export it again")
    return archive


def _kind_of(names: list[str], prefix: str, where: str) -> str:
    if f"{prefix}archive_format" in names:
        return "aoti"
    if f"{prefix}constants.pkl" in names:
        return "torchscript"
    if f"{prefix}data.pkl" in names:
        raise ExportError(
            f"{where}: is a Python checkpoint (torch.save). Load it, and export the model with segnets.export"
        )
    raise ExportError(f"{where}: is a zip file, but not a TorchScript archive. Export a model with segnets.export")


def _other_type(data: bytes) -> str:
    head = data[:512].lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return " but a Git LFS pointer (run git lfs pull)"
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return " but a web page (the download failed)"
    if data[8:9] == b"{" and len(data) > 8:
        return " but a safetensors file (weights without a program)"
    if data.startswith((b"\x80\x02", b"\x80\x04", b"\x80\x05")):
        return " but a pickle (an old Python checkpoint)"
    return ""
