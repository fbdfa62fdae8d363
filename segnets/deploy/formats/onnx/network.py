"""ONNX: the network as a graph that ONNX Runtime, OpenVINO, TensorRT and others run. Everything about it stands here.

The graph of the file is the network alone, with dynamic batch, height and width. What comes before it and after it are
two small programs in the file's metadata (`container.py`), so that runtimes without them take the graph.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module, util
from typing import Any

import torch
from torch import Tensor, nn

from segnets.deploy._reason import reason_of
from segnets.deploy.contract import Contract
from segnets.deploy.formats.onnx.container import check_size, file_in, pack
from segnets.deploy.formats.onnx.image_graphs import mask_text, preprocess_text
from segnets.errors import ExportError
from segnets.preprocessing import Preprocess, Preprocessing, check_image, check_input

# What torch.onnx writes and ONNX Runtime 1.31 runs; below 18 there is no Resize as torch computes it.
OPSETS = (18, 23)
DEFAULT_OPSET = 20
PREPROCESS, MASK = "preprocess.onnx", "mask.onnx"
DYNAMIC_AXES = {0: "batch", 2: "height", 3: "width"}
_TRACED = (2, 3, 128, 160)
_MARGIN = 1 << 20  # for what is not weights
_PROGRAM = "segnets"


def check_installed(needed: str, *names: str) -> None:
    """Raise ExportError unless these packages are there. needed: what for."""
    if missing := [name for name in names if util.find_spec(name) is None]:
        raise ExportError(
            f"{needed} needs {' and '.join(missing)}, which is not installed: pip install 'segnets[onnx]'"
        )


def check_opset(opset: object) -> int:
    """Return `opset` if exports can be made for it. Raises ExportError."""
    if not isinstance(opset, int) or isinstance(opset, bool) or not OPSETS[0] <= opset <= OPSETS[1]:
        raise ExportError(f"opset={opset!r}: expected {OPSETS[0]}..{OPSETS[1]}; {DEFAULT_OPSET} when left out")
    return opset


def network_of(network: nn.Module, opset: int) -> bytes:
    """A rewritten network as a serialized graph.

    It takes "input" float32 (N, 3, H, W) and gives "logits" float32 (N, C, H, W).

    Raises ExportError if it can't be made, or is beyond 2 GB.
    """
    weights = {tensor.data_ptr(): tensor.nbytes for tensor in network.state_dict().values()}
    check_size(sum(weights.values()) + _MARGIN)
    sizes = {axis: torch.export.Dim(name) for axis, name in DYNAMIC_AXES.items()}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter's own making
        try:
            program = torch.onnx.export(
                network.eval(),
                (torch.zeros(_TRACED, dtype=torch.float32),),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=["input"],
                output_names=["logits"],
                dynamic_shapes=(sizes,),
            )
            assert program is not None
            return _plain(program.model_proto, opset)
        except ExportError:
            raise
        except Exception as error:  # whatever an exporter's many layers raise
            raise ExportError(f"the model can't be written as ONNX: {reason_of(error.__cause__ or error)}") from error


def packed(network: bytes, contract: Contract, files: Mapping[str, bytes]) -> bytes:
    """The whole file: the network, the programs for images, and `files`, of which .json stays readable."""
    programs = {
        PREPROCESS: _parsed(preprocess_text(contract.preprocessing, contract.opset)),
        MASK: _parsed(mask_text(contract.num_classes, contract.opset)),
    }
    texts = {name: contents.decode() for name, contents in files.items() if name.endswith(".json")}
    return pack(network, texts, {**{n: c for n, c in files.items() if n not in texts}, **programs})


@dataclass(frozen=True)
class OnnxProgram:
    """A loaded file: called, it gives the logits; with the other two methods of every exported module."""

    network: Any
    image: Any
    mask: Any
    checks: Preprocess
    where: str

    def __call__(self, image: Tensor) -> Tensor:
        check_input(image)
        return run(self.network, {"input": image.to(torch.float32)}, self.where)

    def preprocess(self, image: Tensor) -> Tensor:
        """As `Segmenter.preprocess`."""
        check_image(image)
        self.checks.output_size(image.shape[1], image.shape[2])  # raises for what would become too large
        return run(self.image, {"image": image}, self.where)

    def segment(self, image: Tensor) -> Tensor:
        """As `Segmenter.segment`."""
        logits = self(self.preprocess(image))
        size = torch.tensor([image.shape[1], image.shape[2]])
        return run(self.mask, {"logits": logits, "size": size}, self.where)


def run(program: Any, inputs: Mapping[str, Tensor], where: str) -> Tensor:
    """The one result of a session. where: the file's name, for the message. Raises ExportError."""
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in inputs.items()}
    try:
        (result,) = program.run(None, arrays)
    except Exception as error:  # its own, of many kinds, without a common base
        raise ExportError(f"{where}: ONNX Runtime can't run it: {reason_of(error)}") from None
    return torch.from_numpy(result)


def from_bytes(data: bytes, entries: Mapping[str, str], preprocessing: Preprocessing, where: str) -> OnnxProgram:
    """Load what `packed` made. entries: of it, by `segnets.deploy.formats.onnx.container.unpack`.

    Raises ExportError if ONNX Runtime is not installed or can't load it.
    """
    check_installed(f"{where}: an ONNX file", "onnxruntime")
    # They and the network take turns: their threads must not wait by spinning, which slows the next one down.
    image, mask = (
        session(file_in(entries, name, where), f"{where}: {name}", spin=False) for name in (PREPROCESS, MASK)
    )
    return OnnxProgram(session(data, where), image, mask, Preprocess(preprocessing), where)


def session(data: bytes, where: str, *, spin: bool = True) -> Any:
    """A session of ONNX Runtime on the CPU, with as many threads as torch has. Raises ExportError."""
    onnxruntime: Any = import_module("onnxruntime")  # takes a moment, and need not be installed
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what it says is in the error
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own, of many kinds, without a common base
        raise ExportError(f"{where}: ONNX Runtime can't load it: {reason_of(error)}") from None


def _parsed(text: str) -> bytes:
    onnx: Any = import_module("onnx")
    parser: Any = import_module("onnx.parser")
    model = parser.parse_model(text)
    onnx.checker.check_model(model, full_check=True)
    model.producer_name = _PROGRAM
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _plain(model: Any, opset: int) -> bytes:
    """Checked, and without what tells where each line of the network was written: paths of this machine."""
    onnx: Any = import_module("onnx")
    for message in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        message.ClearField("metadata_props")
        message.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    model.producer_name = _PROGRAM
    written = {each.domain: each.version for each in model.opset_import}
    if written.get("", 0) != opset:
        raise ExportError(f"the exporter wrote opset {written.get('')} where {opset} was asked for")
    onnx.checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
