"""Every kind of network leaves torch whole: graphs of any batch, equal to torch to 1e-4."""

import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from bclef.heads import make_head
from bclef.models import BirdModel, ModelSpec, build_model
from bclef.spectrogram import FactoredLogMel


def network(spec: ModelSpec, changes: dict[str, object]) -> BirdModel:
    """A model of three channels whose backbone is one layer: another is no matter of the graph."""
    tree = spec.model_dump()
    tree["model"] |= changes
    tree["frontend"] |= {"channels": "ramp"}
    changed = ModelSpec.from_tree(tree, "test")
    model = build_model(changed, seed=0)
    model.spectrogram = FactoredLogMel(changed.frontend, changed.sample_rate_hz)
    model.add_module("backbone", nn.Sequential(nn.AvgPool2d((8, 4)), nn.Conv2d(3, 6, 1)))
    model.head = make_head(6, len(spec.labels), changed.model)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"head": "cnn", "frequency_pool": "gem", "part_s": 0.5, "max_share": 0.25},
        {"clip_pooling": "probability", "frame_smoothing": True, "mel_batch_norm": True},
        {"input_s": 2.0, "scored_s": 1.0, "max_share": 1.0, "frame_shift": 2, "part_s": 1.0},
        {"frequency_pool": "gem", "hidden_features": 8, "n_dropouts": 3},
    ],
    ids=["parts", "probability", "context", "gem"],
)
def test_graph_of_any_batch_says_what_torch_says(
    spec: ModelSpec, changes: dict[str, object], rng: np.random.Generator
) -> None:
    model = network(spec, changes)
    n_samples = model.spec.window_samples
    with warnings.catch_warnings():
        # torch's exporter calls parts of torch that torch has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        program = torch.onnx.export(
            model,
            (torch.zeros(2, n_samples),),
            dynamo=True,
            opset_version=18,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    graph = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for n_clips in (1, 2, 5):
        wave = rng.normal(0, 0.1, (n_clips, n_samples)).astype(np.float32)
        (found,) = graph.run(None, {graph.get_inputs()[0].name: wave})
        with torch.no_grad():
            expected = model(torch.from_numpy(wave))
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert found.shape == (n_clips, 4)
