"""The graph that ships: raw waveform to probabilities, written for ONNX and for OpenVINO."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import openvino
import torch
from openvino import opset13
from torch import Tensor, nn

from bclef.exportfolder import INPUT_NAME, ONNX_FILE, OPENVINO_FILES, OUTPUT_NAME, ExportError
from bclef.models import BirdModel
from bclef.spectrogram import FactoredLogMel

_FRONT_END = "spectrogram."
"""What the names of the front end's constants begin with: the attribute of `Ensemble`."""
_NAMED_FOR_USERS = ("Parameter", "Result")
"""OpenVINO nodes whose names a program may use."""


class Ensemble(nn.Module):
    """The graph that is exported: `wave` [B, T] to mean probabilities [B, C] over `models`.

    Args:
        models: Members in evaluation mode, with one front end.
    """

    def __init__(self, models: Sequence[BirdModel]) -> None:
        super().__init__()
        spec = models[0].spec
        self.spectrogram = FactoredLogMel(spec.frontend, spec.sample_rate_hz)
        self.members = nn.ModuleList(models)

    def forward(self, wave: Tensor) -> Tensor:
        """Returns float32 [B, C]."""
        mel = self.spectrogram(wave)
        models = [cast("BirdModel", member) for member in self.members]
        clips = [model.features(mel).clip.sigmoid() for model in models]
        return torch.stack(clips).mean(0)


def write_graphs(folder: Path, models: Sequence[BirdModel], opset: int) -> None:
    """Writes the ONNX graph of `models`, and from it the two of OpenVINO, into `folder`.

    Args:
        folder: Export folder in the making.
        models: Members in evaluation mode, with one front end.
        opset: ONNX operator set.

    Raises:
        ExportError: torch's exporter gave no graph.
    """
    with warnings.catch_warnings():
        # torch's exporter calls parts of torch that torch has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            Ensemble(models).eval(),
            (torch.zeros(2, models[0].spec.window_samples),),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx gave no graph")
    graph = program.model_proto
    _drop_build_notes(graph)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, folder / ONNX_FILE)
    for name, file in OPENVINO_FILES.items():
        (folder / file).parent.mkdir(exist_ok=True)
        model = openvino.Core().read_model(folder / ONNX_FILE)
        if name.endswith("fp16"):
            _halve_weights(model)
        for place, node in enumerate(model.get_ordered_ops()):
            # OpenVINO numbers nameless nodes through the life of a process: never twice the same.
            if node.get_type_name() not in _NAMED_FOR_USERS:
                node.set_friendly_name(f"{node.get_type_name()}_{place}")
        openvino.save_model(model, folder / file, compress_to_fp16=False)


def _drop_build_notes(model: onnx.ModelProto) -> None:
    """Removes stack traces and paths of this machine, which also would change the file's hash."""
    graph = model.graph
    parts = (graph.node, graph.input, graph.output, graph.initializer, graph.value_info, [graph])
    for part in (model, *(entry for entries in parts for entry in entries)):
        del part.metadata_props[:]
        part.doc_string = ""


def _halve_weights(model: openvino.Model) -> None:
    """Stores the weights of the networks as float16; they are calculated with as float32.

    The constants of the front end stay as they are: rounded to float16, a Fourier transform would
    raise the floor of the spectrum to -66 dB, within the range that a network looks at.
    """
    for node in model.get_ordered_ops():
        is_weight = node.get_type_name() == "Constant" and len(node.shape) > 1
        if is_weight and node.get_element_type() == openvino.Type.f32:
            if node.get_friendly_name().startswith(_FRONT_END):
                continue
            users = node.output(0).get_target_inputs()
            halved = opset13.constant(node.get_data().astype(np.float16))
            restored = opset13.convert(halved, "f32")
            for user in users:
                user.replace_source_output(restored.output(0))
