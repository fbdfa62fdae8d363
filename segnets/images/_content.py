"""Identify files that are not images by their first bytes. File names are never considered."""

from __future__ import annotations

# Number of bytes that `kind_of` needs.
HEAD = 512

# Images that Pillow reads, unless they are damaged.
_IMAGES = (
    (b"\x89PNG", "PNG image"),
    (b"\xff\xd8\xff", "JPEG image"),
    (b"GIF8", "GIF image"),
    (b"II*\0", "TIFF image"),
    (b"MM\0*", "TIFF image"),
    (b"BM", "BMP image"),
    (b"P5", "PGM image"),
    (b"P6", "PPM image"),
)
_MAGIC = (
    (b"%PDF", "PDF; export its pages as PNG"),
    (b"%!PS", "PostScript (EPS), a drawing; export it as PNG"),
    (b"\xc5\xd0\xd3\xc6", "PostScript (EPS), a drawing; export it as PNG"),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile (WMF), a drawing; export it as PNG"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the image with git lfs pull"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\x1f\x8b", "compressed with gzip; unpack it"),
    (b"\x93NUMPY", "a NumPy array; pass numpy.load(path)"),
    (b"\x89HDF\r\n\x1a\n", "HDF5; save the image as PNG or TIFF"),
    (b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (b"P7", "PAM; save it as PPM or PNG"),
    *((magic, f"a {kind}, damaged, incomplete or of an unusual kind") for magic, kind in _IMAGES),
)
# Brands of the ISO container, which holds HEIC photographs, AVIF and videos.
_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_MARKUP = ((b"<svg", "SVG, a drawing; export it as PNG"), (b"<html", "HTML"), (b"<!doctype html", "HTML"))


def kind_of(head: bytes) -> str:
    """Describe the type of a file from its first bytes.

    Args:
        head: At most HEAD bytes from the beginning of the file.

    Returns:
        Phrase that completes "is ...", or "" if the bytes do not show the type.
    """
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[4:8] == b"ftyp":
        if head[8:12] in _HEIF:
            return (
                "HEIC, which Pillow reads with the package pillow-heif "
                "(pillow_heif.register_heif_opener()); or save it as JPEG"
            )
        avif = head[8:12] in (b"avif", b"avis")
        return "an AVIF image, damaged or incomplete" if avif else "a video (MP4 or QuickTime)"
    if head.startswith(b"RIFF") and head[8:12] in (b"AVI ", b"WEBP"):
        return "a video (AVI)" if head[8:12] == b"AVI " else "a WebP image, damaged or incomplete"
    return _kind_of_text(head)


def _kind_of_text(head: bytes) -> str:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = head.decode("utf-16", errors="replace")
    else:
        try:
            text = head.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
        except UnicodeDecodeError as error:
            if error.start < len(head) - 4:  # otherwise a character is cut off at the end
                return ""
            text = head[: error.start].decode("utf-8")
    if not all(c.isprintable() or c.isspace() for c in text):
        return ""
    start = text.lstrip().lower().encode()
    for mark, kind in _MARKUP:
        if start.startswith(mark):
            return kind if kind != "HTML" else "HTML; the download failed"
    if start.startswith((b"<?xml", b"<!doctype svg", b"<!--")):
        return next((kind for mark, kind in _MARKUP if mark in start), "XML")
    return "JSON; the download may have failed" if start.startswith((b"{", b"[")) else "text"
