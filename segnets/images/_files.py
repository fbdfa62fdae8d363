"""Open image files without waiting for pipes, decoding pixels, or applying Pillow's own size limit."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from segnets.errors import ImageError
from segnets.images._content import HEAD, kind_of

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile
    from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

# Pillow refuses larger images too.
MAX_PIXELS = 178_956_970

# Drawings, for which Pillow would start Ghostscript or Windows' own functions; and formats that Pillow recognises and
# can't decode.
_NO_PIXELS = frozenset({"EPS", "WMF", "BUFR", "FPX", "GRIB", "HDF5", "MPEG"})

_REASONS = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file; part of the path is not a folder",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ELOOP: "is reached through a loop of symbolic links",
    errno.ENAMETOOLONG: "no such file; the name is too long",
}

_WIDTH, _HEIGHT, _BITS, _SAMPLES, _FORMAT = 256, 257, 258, 277, 339
_SUBFILE_TYPE, _SUB_IFDS, _DNG_VERSION = 254, 330, 50706
_REDUCED = 1


def printable(name: str) -> str:
    """Escape characters that would break a line or a terminal. Letters of every script and emoji are kept."""
    return name if name.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


@contextlib.contextmanager
def opened_file(path: str | os.PathLike[str], name: str) -> Iterator[IO[bytes]]:
    """Open a regular file for a `with` block.

    Pipes, devices and folders are refused before they are opened, because opening a pipe waits and opening a device may
    have side effects.

    Args:
        path: Path of the file.
        name: Name for messages.

    Yields:
        The file, opened in binary mode.

    Raises:
        ImageError: If the file can't be opened or is not a regular file.
    """
    try:
        _check_regular(Path(path).stat(), name)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(path, flags), "rb")
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise _cannot_open(error, name) from None
    with file:
        _check_regular(os.fstat(file.fileno()), name)  # it may have been replaced in between
        yield file


def _check_regular(status: os.stat_result, name: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ImageError(f"{name}: is a folder; pass an image in it")
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{name}: is a pipe, device or socket; pass its bytes, or save them to a file first")


def _cannot_open(error: OSError | ValueError, name: str) -> ImageError:
    if "://" in name:
        return ImageError(f"{name}: URLs are not supported; save the image to a file first")
    number = error.errno if isinstance(error, OSError) else None
    reason = _REASONS.get(number) if number is not None else None
    return ImageError(f"{name}: {reason or f'is not a valid path: {error}'}")


def undecodable(error: Exception, name: str, kind: str) -> ImageError:
    """Convert any error of an image reader, whose message may quote the file, to a one-line ImageError."""
    if isinstance(error, ImageError):
        return error
    if isinstance(error, MemoryError):
        return ImageError(f"{name}: its pixels need more memory than is free")
    reason = printable((str(error).splitlines() or [""])[0]) or type(error).__name__
    what = f"this {kind} image is damaged or incomplete" if kind else "reading it failed"
    return ImageError(f"{name}: can't be read as an image: {what} ({reason})")


def open_image(file: IO[bytes], name: str) -> ImageFile:
    """Recognise an image by its content and read its header. No pixel is decoded.

    `PIL.Image.open` also compares the size with a global limit, and warns. This is the same loop over Pillow's
    readers without that check. The caller checks the size against its own limit, in any number of threads.

    Args:
        file: Seekable file, opened in binary mode. It must stay open until the image is decoded.
        name: Name for messages.

    Raises:
        ImageError: If the file is not an image that Pillow can read.
    """
    from PIL import Image

    file.seek(0)
    head = file.read(HEAD)
    if not head:
        raise ImageError(f"{name}: is empty (0 bytes)")
    tried = set(_NO_PIXELS)
    missing = ""
    for import_readers in (Image.preinit, Image.init):
        import_readers()
        for kind in [each for each in Image.ID if each not in tried]:
            tried.add(kind)
            reader, accept = Image.OPEN[kind]
            try:
                accepted = accept is None or accept(head[:16])
                if isinstance(accepted, str):  # a library that Pillow lacks
                    missing = accepted
                elif accepted:
                    file.seek(0)
                    return reader(file, "")
            except (SyntaxError, IndexError, TypeError, KeyError, struct.error):
                continue  # as in Pillow: the file has a different format after all
            except Exception as error:  # Pillow's readers raise exceptions of any type for a damaged file
                raise undecodable(error, name, kind) from None
    raise ImageError(f"{name}: {_why_unknown(file, head, missing)}")


def _why_unknown(file: IO[bytes], head: bytes, missing: str) -> str:
    if kind := _tiff_layout(file, head) or kind_of(head):
        return f"not an image that Pillow can read: is {kind}"
    return f"not an image that Pillow can read{f' ({missing})' if missing else ''}"


def _tiff_layout(file: IO[bytes], head: bytes) -> str:
    """Describe the pixels of a TIFF that Pillow has no mode for, or return ""."""
    from PIL import TiffImagePlugin

    if not head.startswith((b"II*\0", b"MM\0*", b"II+\0")):
        return ""
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(head[: 16 if head[2] == 43 else 8])
        file.seek(tags.next)
        tags.load(file)
        bits = tags.get(_BITS, (1,))
        kind = {2: "signed ", 3: "float ", 5: "complex ", 6: "complex "}.get(tags.get(_FORMAT, (1,))[0], "")
        samples = int(tags.get(_SAMPLES, len(bits)))
        depth = int(max(bits))
        side = f"{int(tags[_WIDTH])}x{int(tags[_HEIGHT])}"
    except Exception:  # any damage
        return ""
    return (
        f"a TIFF of {side} pixels with {samples} channels of {kind}{depth} bits; save it with 1 or 3 channels of "
        "8 or 16 bits, or pass an array (H, W, channels)"
    )


def check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    """Check the number of pixels before decoding.

    Raises:
        ImageError: If the image has more than `max_pixels` pixels.
    """
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: has {width}x{height} pixels, {width * height:,} in total, but at most {max_pixels:,} are "
            "decoded. If you trust the file and have the memory, raise the limit (--max-pixels, or max_pixels=)"
        )


def check_webp_size(file: IO[bytes], name: str, max_pixels: int) -> None:
    """Check the size of a WebP image before opening it, because Pillow allocates the canvas when it opens one.

    Raises:
        ImageError: If the image has more than `max_pixels` pixels.
    """
    file.seek(0)
    head = file.read(30)
    if len(head) < 30 or not (head.startswith(b"RIFF") and head[8:12] == b"WEBP"):
        return
    width = height = 0
    if head[12:16] == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif head[12:16] == b"VP8 ":
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    check_size(width, height, name, max_pixels)


def stored_size(image: ImageFile) -> tuple[int, int]:
    """Return (width, height) before any orientation is applied. For a TIFF, Pillow has already applied it."""
    if image.format != "TIFF":
        return image.size
    tags = _tags(image)
    return int(tags[_WIDTH]), int(tags[_HEIGHT])


def prepare_tiff(image: ImageFile, name: str) -> None:
    """Refuse previews of camera raw files, and allocate the pixels of a TIFF.

    Pillow itself allocates them only below its own global limit.

    Raises:
        ImageError: If the first image is a preview.
    """
    from PIL import Image

    tags = _tags(image)
    if tags.get(_SUBFILE_TYPE, 0) & _REDUCED and (_SUB_IFDS in tags or _DNG_VERSION in tags):
        raise ImageError(
            f"{name}: is a camera raw file, of which Pillow reads only a small preview; develop it to JPEG, PNG or TIFF"
        )
    image.im = Image.new(image.mode, stored_size(image)).im


def has_more_pictures(image: ImageFile) -> bool:
    """Return whether an image has further frames or pages.

    The other images of a JPEG (MPO: gain maps, previews, the other eye) and of an icon, and the reduced copies after
    the first page of a TIFF, do not count.
    """
    if image.format in ("MPO", "ICO", "ICNS") or not getattr(image, "is_animated", False):
        return False
    if image.format != "TIFF":
        return True
    try:
        image.seek(1)
        return not _tags(image).get(_SUBFILE_TYPE, 0) & _REDUCED
    finally:
        image.seek(0)


def _tags(image: ImageFile) -> ImageFileDirectory_v2:
    tiff: TiffImageFile = image  # type: ignore[assignment]
    return tiff.tag_v2


def late_orientation(file: IO[bytes]) -> bool:
    """Return whether a PNG file may store an orientation after its pixels. Only chunk headers are read."""
    file.seek(8)
    behind = False
    while len(header := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", header)
        if kind == b"IEND":
            return False
        behind |= kind == b"IDAT"
        if behind and kind == b"eXIf":
            return True
        start = file.read(min(size, 32)) if behind and kind in (b"tEXt", b"zTXt", b"iTXt") else b""
        if start.startswith((b"Raw profile type exif", b"XML:com.adobe.xmp")):
            return True
        file.seek(size + 4 - len(start), io.SEEK_CUR)
    return False
