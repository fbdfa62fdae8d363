"""Convert the colours of an image from its embedded ICC profile to sRGB."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from segnets.images._files import printable

if TYPE_CHECKING:
    from PIL import Image, ImageCms

# Profiles for printing presses can be up to 4 MB.
_MAX_BYTES = 16 << 20
# Programs round the constants of sRGB differently. Below this difference a profile counts as sRGB.
_SAME = 2
# Colour spaces of profiles, and the mode that their transform reads.
_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK", "Lab": "LAB"}
# Modes that Pillow converts to RGB without loss before a profile for RGB is applied.
_THROUGH_RGB = ("1", "L", "YCbCr", "HSV", "RGBX")


class _Conversion(NamedTuple):
    """Conversion from one profile to sRGB.

    Attributes:
        mode: Mode of the images to convert.
        name: Name of the profile, printable.
        transform: Transform to RGB; None for sRGB itself.
        problem: Reason why there is no conversion, or "".
    """

    mode: str = ""
    name: str = ""
    transform: ImageCms.ImageCmsTransform | None = None
    problem: str = ""


def to_srgb(image: Image.Image, notices: list[str]) -> Image.Image:
    """Convert an image with a profile of another colour space to sRGB.

    An image without a profile, with a damaged one or with an sRGB profile is returned unchanged.

    Args:
        image: Image without transparency and with a palette applied.
        notices: List to which notices of assumptions and conversions are appended.

    Returns:
        Image in mode RGB with sRGB colours, or the argument itself.
    """
    icc = image.info.get("icc_profile")
    if not icc or not isinstance(icc, bytes):
        return image
    if len(icc) > _MAX_BYTES:
        notices.append(f"its colour profile of {len(icc):,} bytes was ignored")
        return image
    conversion = _conversion(icc)
    if conversion.problem:
        notices.append(f"its colour profile was ignored: {conversion.problem}")
        return image
    if image.mode != conversion.mode and not (conversion.mode == "RGB" and image.mode in _THROUGH_RGB):
        notices.append(f"its colour profile {conversion.name!r} was ignored, as it is for {conversion.mode} images")
        return image
    if conversion.transform is None:
        return image
    from PIL import ImageCms

    result = ImageCms.applyTransform(image.convert(conversion.mode), conversion.transform)
    assert result is not None
    notices.append(f"its colours were converted from the profile {conversion.name!r} to sRGB")
    return result


# A folder of photographs has few different profiles. A transform may be used in several threads at once.
@functools.lru_cache(maxsize=16)
def _conversion(icc: bytes) -> _Conversion:
    from PIL import Image, ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        mode = _MODES.get(profile.profile.xcolor_space.strip(), "")
        if not mode:
            return _Conversion(problem=f"it is for the colour space {printable(profile.profile.xcolor_space)!r}")
        name = printable((profile.profile.profile_description or "").strip() or "without a name")[:80]
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION
        if mode == "L":  # the optimised form has 33 points, and errors of 10 in the shadows of linear profiles
            flags |= ImageCms.Flags.NOOPTIMIZE
        srgb, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.buildTransform(profile, srgb, mode, "RGB", intent, flags)
        if mode in ("L", "RGB"):
            steps = np.arange(256) if mode == "L" else np.linspace(0, 255, 16).round()
            colours = np.stack(np.meshgrid(*[steps] * len(mode)), axis=-1).reshape(1, -1, len(mode)).astype(np.uint8)
            probe = Image.fromarray(colours.squeeze(2) if mode == "L" else colours)
            converted = ImageCms.applyTransform(probe, transform)
            if np.abs(np.asarray(converted).astype(int) - colours).max() <= _SAME:
                return _Conversion(mode, name)
        return _Conversion(mode, name, transform)
    except ImportError:
        return _Conversion(problem="this Pillow has no littleCMS")
    except Exception as error:  # from the library that parses the profile, which is untrusted
        return _Conversion(problem=f"it is damaged ({printable(str(error))[:80]})")
