"""The graph that ships: raw waveform to probabilities, written for ONNX and for OpenVINO."""

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias, cast

import numpy as np
import onnx
import openvino
import torch
from openvino import opset13
from torch import Tensor, nn

from bclef.exportfolder import INPUT_NAME, ONNX_FILE, OPENVINO_FILES, OUTPUT_NAME, ExportError
from bclef.models import BirdModel, part_images
from bclef.spectrogram import FactoredLogMel

_NETWORKS = "members."
"""What the names of the networks' weights begin with: the attribute of `Ensemble`."""
_NAMED_FOR_USERS = ("Parameter", "Result")
"""OpenVINO nodes whose names a program may use."""
_LEAST_PROBABILITY = 1e-6
"""Probabilities are clipped to this distance from 0 and 1 before their logits are taken."""

Combination: TypeAlias = Literal["mean", "quadratic_mean", "logit_mean"]
"""How the probabilities of several models become one."""


@cache
def openvino_core() -> openvino.Core:
    """Returns the one core of this process.

    Each core gives the thread a stack for signals and takes it back when it goes. Of two that do
    not go in the opposite order of their coming, one leaves a stack behind that is gone, and the
    next signal kills the process.
    """
    return openvino.Core()


class Ensemble(nn.Module):
    """The graph that is exported: `wave` [B, T] to the probabilities [B, C] of `models` together.

    Args:
        models: Members in evaluation mode, with one front end, window, and division into parts.
        how: How their probabilities become one.
    """

    def __init__(self, models: Sequence[BirdModel], how: Combination) -> None:
        super().__init__()
        spec = models[0].spec
        self.spectrogram = FactoredLogMel(spec.frontend, spec.sample_rate_hz)
        self.members = nn.ModuleList(models)
        self.n_parts = spec.window_samples // spec.part_samples
        self.how = how

    def forward(self, wave: Tensor) -> Tensor:
        """Returns float32 [B, C]."""
        images = part_images(self.spectrogram, wave, self.n_parts)
        models = [cast("BirdModel", member) for member in self.members]
        return combine(torch.stack([model.scores(images) for model in models]), self.how)


def combine(probabilities: Tensor, how: Combination) -> Tensor:
    """Returns one probability [B, C] for those of K models [K, B, C].

    `quadratic_mean` is the root of the mean square, `logit_mean` the sigmoid of the mean logit of
    probabilities clipped to 1e-6 from 0 and 1.

    Source:
        docs/formulas.md E26 and, with equal weights, E27.
    """
    if how == "quadratic_mean":
        return probabilities.square().mean(0).sqrt()
    if how == "logit_mean":
        # Each side is clipped for itself: as float32, 1 less (1 - 1e-6) is not 1e-6.
        least = _LEAST_PROBABILITY
        for_it, against_it = probabilities.clamp(min=least), (1 - probabilities).clamp(min=least)
        return (for_it.log() - against_it.log()).mean(0).sigmoid()
    return probabilities.mean(0)


def write_graphs(folder: Path, models: Sequence[BirdModel], how: Combination, opset: int) -> None:
    """Writes the ONNX graph of `models`, and from it the two of OpenVINO, into `folder`.

    Args:
        folder: Export folder in the making.
        models: Members, as `Ensemble`.
        how: How their probabilities become one.
        opset: ONNX operator set.

    Raises:
        ExportError: torch's exporter gave no graph.
    """
    with warnings.catch_warnings():
        # torch's exporter calls parts of torch that torch has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            Ensemble(models, how).eval(),
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
        model = openvino_core().read_model(folder / ONNX_FILE)
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
    is_network = False
    for node in model.get_ordered_ops():
        for end in node.inputs():
            constant = end.get_source_output().get_node()
            # Some constants of either part are nameless, but all of the front end comes first.
            is_network = is_network or constant.get_friendly_name().startswith(_NETWORKS)
            if is_network and _is_weight(constant):
                halved = opset13.constant(constant.get_data().astype(np.float16))
                restored = opset13.convert(halved, "f32")
                for user in constant.output(0).get_target_inputs():
                    user.replace_source_output(restored.output(0))


def _is_weight(node: openvino.Node) -> bool:
    is_table = node.get_type_name() == "Constant" and len(node.get_output_shape(0)) > 1
    return is_table and node.get_output_element_type(0) == openvino.Type.f32
