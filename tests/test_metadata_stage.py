"""What the stage metadata says at its end."""

import pandas as pd

from bclef.recordings import Metadata
from stages.metadata import result_line


def metadata(kept, rejected):
    return Metadata(
        recordings=pd.DataFrame({"source": kept}, dtype="string"),
        classes=pd.DataFrame({"label": ["a", "b"]}),
        rejected=pd.DataFrame(rejected, columns=["source", "reason"], dtype="string"),
        annotations=pd.DataFrame(),
        species_names=pd.DataFrame(),
    )


def test_result_tells_numbers_reasons_classes_and_sources():
    rejected = [("folder", "licence"), ("folder", "licence"), ("xeno_canto", "restricted")]
    assert result_line(metadata(["xeno_canto"] * 1200 + ["folder"], rejected)) == (
        "1,204 listed, 1,201 kept, 3 rejected (licence 2, restricted 1), 2 classes; "
        "folder: 3 listed, 1 kept, 2 rejected; xeno_canto: 1,201 listed, 1,200 kept, 1 rejected"
    )


def test_result_without_rejections_lists_no_reason():
    assert result_line(metadata(["demo"], [])) == (
        "1 listed, 1 kept, 0 rejected, 2 classes; demo: 1 listed, 1 kept, 0 rejected"
    )
