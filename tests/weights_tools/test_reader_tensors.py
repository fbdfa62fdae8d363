"""Tensors of several dtypes that share a storage, at every alignment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.weights_tools.files import assert_same, saved
from weights_tools.extract.state_dict import find_state_dict
from weights_tools.reader import open_checkpoint
from weights_tools.reader.tensors import TensorReader


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("shift", range(8))
def test_views_of_several_dtypes_are_read(tmp_path: Path, shift: int, legacy: bool) -> None:
    numbers = torch.randint(1 << 62, (8,)).view(torch.uint64)
    views = [numbers.view(torch.uint16), numbers, numbers.view(torch.uint32), numbers.view(torch.uint16)[1:]]
    content = {f"w{i}{'x' * shift}": view for i, view in enumerate(views)}
    path = tmp_path / "w.pth"
    path.write_bytes(saved(content, _use_new_zipfile_serialization=not legacy))
    with open_checkpoint(path) as (source, container):
        assert container.kind == ("torch legacy" if legacy else "torch zip")
        tensors = find_state_dict(container).tensors
        reader = TensorReader(source, container)
        read = {name: reader.read(name, ref) for name, ref in tensors.items()}
        assert_same(read, content)
