"""Run what segnets.export wrote, by LibTorch, on NumPy arrays. Needs no `import torch`."""

import os
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

class Error(ValueError):
    """Bad input, or a file that can't be used: what is wrong and what to do, in one line.

    A ValueError; and a segnets.errors.SegnetsError in programs that have imported segnets.
    """

@final
class SelfTest:
    """What a replay of the golden pair measured.

    sample_difference: of the preprocessed image, in grey levels of 0..255.
    logits_difference: relative to the largest logit; allowed is tolerance.
    disagreements: how many of all pixels are of another class; near_ties: those of them whose two best classes were
    within the tolerance.
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
    """An exported model, safe to use from many threads at once. Calls release the GIL."""

    def __init__(self, path: str | bytes | os.PathLike[str], *, keep_memory: bool = True) -> None:
        """Load a file that segnets.export wrote; it is a program, so load only what you trust. Raises Error.

        keep_memory: on glibc, let the process keep the memory that a call frees for the next call, which then is a
        tenth to a half faster; the process stays as large as its largest call was.
        """

    def segment(self, image: NDArray[np.uint8]) -> NDArray[np.uint8] | NDArray[np.int16]:
        """The class id of every pixel.

        image: (H, W, 3) or (N, H, W, 3) uint8 RGB, 0..255. Read where it is unless its rows or pixels run backwards;
        `bgr[..., ::-1]` costs nothing.
        Returns (H, W) or (N, H, W), uint8 up to 256 classes, else int16. Raises Error.
        """

    def logits(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The scores behind the mask, at the size of the network's input.

        image: as for `segment`. Returns (C, h, w) or (N, C, h, w) float32. Raises Error.
        """

    def warm_up(self, height: int, width: int, calls: int = 2) -> None:
        """Segment a grey image of this size, so that the next call is as fast as the later ones. Raises Error."""

    def self_test(self) -> SelfTest:
        """Replay the image that the file carries with its expected answers. Raises Error if it carries none."""

    @property
    def contract(self) -> dict[str, Any]:
        """What the file promises about itself: segnets.json as a dictionary, a new one each time."""

def set_threads(count: int) -> None:
    """How many threads one operator may use (1..1024), for the whole process; before the first call.

    Where several Python threads call one model, 1 is the fastest. Raises Error.
    """
