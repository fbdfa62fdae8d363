"""Run exported models with LibTorch on NumPy arrays, without importing torch."""

import os
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

class Error(ValueError):
    """Bad input or an unusable file: what failed and what to do, in one line.

    In programs that have imported segnets, it is also a segnets.errors.SegnetsError.
    """

@final
class SelfTest:
    """Result of replaying the golden pair.

    Attributes:
        sample_difference: Largest difference of the preprocessed image, in gray levels of 0..255.
        logits_difference: Largest difference of the logits, relative to the largest logit.
        tolerance: Allowed `logits_difference`.
        pixels: Number of pixels.
        disagreements: Number of pixels whose class differs.
        near_ties: Number of disagreements whose two largest logits were within the tolerance.
        passed: Whether the file computes its reference output.
    """

    @property
    def sample_difference(self) -> float: ...
    @property
    def logits_difference(self) -> float: ...
    @property
    def tolerance(self) -> float: ...
    @property
    def pixels(self) -> int: ...
    @property
    def disagreements(self) -> int: ...
    @property
    def near_ties(self) -> int: ...
    @property
    def passed(self) -> bool: ...

class Model:
    """An exported model that any number of threads may call at once. Calls release the GIL."""

    def __init__(self, path: str | bytes | os.PathLike[str], *, keep_memory: bool = True) -> None:
        """Load a file written by segnets.export. The file is a program: load only files that you trust.

        Args:
            path: Path of the file.
            keep_memory: Whether the process keeps memory that a call frees for the next call. Batches then take up
                to a third less time. This changes malloc for the whole process (mallopt, glibc only), which stays as
                large as its largest call.

        Raises:
            Error: If the file can't be loaded.
        """

    def segment(self, image: NDArray[np.uint8]) -> NDArray[np.uint8] | NDArray[np.int16]:
        """Return the class id of every pixel.

        Args:
            image: (H, W, C) or (N, H, W, C) uint8, 0..255, RGB for three channels; (H, W) for one channel. It is copied
                only if its rows or pixels are in reverse order; `bgr[..., ::-1]` costs nothing.

        Returns:
            (H, W) or (N, H, W), uint8 for up to 256 classes, else int16. A multi-label model gives planes of 0 and 1,
            (C, H, W) or (N, C, H, W), uint8.

        Raises:
            Error: If the array is not an image, or can't be segmented.
        """

    def logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the logits at the network's input resolution.

        Args:
            image: See `segment`.

        Returns:
            (C, h, w) or (N, C, h, w) float32.

        Raises:
            Error: If the array is not an image, or can't be segmented.
        """

    def warm_up(self, height: int, width: int, calls: int = 2) -> None:
        """Segment a gray image of this size, so that the next call is already fast.

        Raises:
            Error: If the size is out of range.
        """

    def self_test(self) -> SelfTest:
        """Run the image stored in the file and compare with its reference output.

        Raises:
            Error: If the file stores none.
        """

    @property
    def contract(self) -> dict[str, Any]:
        """The contents of segnets.json, as a new dictionary."""

def set_threads(count: int) -> None:
    """Set how many threads one operator may use, in the whole process. Call it before a model's first call.

    Args:
        count: Number of threads, 1..1024. If several Python threads call one model, 1 is fastest.

    Raises:
        Error: If `count` is out of range.
    """
