"""The candidates of a benchmark: one network in the formats and runtimes that people deploy it with.

Each candidate is code that runs in its own process: `prepare` loads the network, and `call` is timed. The files are
written once, before the measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NETWORKS = (
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "fcn_resnet50",
    "fcn_resnet101",
    "lraspp_mobilenet_v3_large",
)
SIZE = 520

_TORCH = """
import torch, warnings
warnings.simplefilter("ignore")
torch.set_num_threads({threads})
x = torch.rand({batch}, 3, {size}, {size}, generator=torch.Generator().manual_seed(0))
"""
_TORCHVISION = (
    _TORCH
    + """
from segnets.torchvision_compat import torchvision
network = getattr(torchvision.models.segmentation, {network!r})(weights=None, weights_backbone=None)
network.load_state_dict(torch.load({weights!r}))
network.eval()
"""
)
_CALL = """
with torch.inference_mode():
    result = network(x)
"""
_OURS = (
    _TORCH
    + """
from segnets.deploy import load_exported
network = load_exported({file!r}).logits
"""
)
_ONNX = """
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = {threads}
session = onnxruntime.InferenceSession({file!r}, options, providers=["CPUExecutionProvider"])
x = numpy.random.default_rng(0).random(({batch}, 3, {size}, {size}), dtype=numpy.float32)
name = session.get_inputs()[0].name
"""
_OPENVINO = """
import numpy, openvino
core = openvino.Core()
settings = {{"INFERENCE_NUM_THREADS": {threads}, "INFERENCE_PRECISION_HINT": {precision!r}}}
settings["PERFORMANCE_HINT"] = "LATENCY"
network = core.compile_model(core.read_model({file!r}), "CPU", settings)
x = numpy.random.default_rng(0).random(({batch}, 3, {size}, {size}), dtype=numpy.float32)
request = network.create_infer_request()
"""
_ONNX_CALL = "result = session.run(None, {{name: x}})"
_OPENVINO_CALL = "result = request.infer([x])"
_TORCHVISION_ONNX = ".onnx"


@dataclass(frozen=True)
class Candidate:
    """One column of the table.

    Attributes:
        name: Name in the table.
        prepare: Python code that loads the network. Both snippets have fields that `code` fills in.
        call: Python code that is timed.
        file: Suffix of the file that it loads, for `files.make`; "{threads}" stands for the number of threads. Empty if
            it loads only torchvision's weights.
        precision: OpenVINO's name of the precision.
    """

    name: str
    prepare: str
    call: str
    file: str = ""
    precision: str = "f32"

    def file_for(self, threads: int) -> str:
        """Return the suffix that follows the network's name in the file's name."""
        return self.file.format(threads=threads)

    def code(self, network: str, folder: Path, *, threads: int, batch: int, size: int = SIZE) -> tuple[str, str]:
        """Return the code that prepares a call, and the code to time."""
        fields: Mapping[str, object] = {
            "network": network,
            "threads": threads,
            "batch": batch,
            "size": size,
            "weights": str(folder / f"{network}.pth"),
            "file": str(folder / f"{network}{self.file_for(threads)}"),
            "precision": self.precision,
        }
        return self.prepare.format(**fields), self.call.format(**fields)


CANDIDATES = (
    Candidate("torchvision scripted", _TORCHVISION + "\nnetwork = torch.jit.script(network)\n", _CALL),
    Candidate(
        "torchvision channels_last",
        _TORCHVISION
        + "\nnetwork = network.to(memory_format=torch.channels_last)"
        + "\nx = x.contiguous(memory_format=torch.channels_last)\n",
        _CALL,
    ),
    Candidate("ONNX Runtime", _ONNX, _ONNX_CALL, _TORCHVISION_ONNX),
    Candidate("OpenVINO float32", _OPENVINO, _OPENVINO_CALL, _TORCHVISION_ONNX),
    Candidate("OpenVINO bfloat16", _OPENVINO, _OPENVINO_CALL, _TORCHVISION_ONNX, precision="bf16"),
    Candidate("segnets torchscript portable", _OURS, _CALL, "-portable.ts"),
    Candidate("segnets torchscript cpu float32", _OURS, _CALL, "-cpu.ts"),
    Candidate("segnets torchscript cpu bfloat16", _OURS, _CALL, "-cpu-bf16.ts"),
    Candidate("segnets aoti float32", _OURS, _CALL, "-aoti-{threads}.pt2"),
    Candidate("segnets aoti bfloat16", _OURS, _CALL, "-aoti-bf16-{threads}.pt2"),
    Candidate("segnets int8, ONNX Runtime", _ONNX, _ONNX_CALL, "-int8.onnx"),
    Candidate("segnets int8, OpenVINO", _OPENVINO, _OPENVINO_CALL, "-int8.onnx", precision="bf16"),
)
