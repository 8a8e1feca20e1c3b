from pathlib import Path

from bclef.phases import PhaseSetup, PretrainConfig, pretrain
from bclef.taxonomy import ClassList


def test_smoke(setup: PhaseSetup, tmp_path: Path) -> None:
    r = pretrain(
        setup,
        ClassList(("ani", "bee", "cro", "dov")),
        PretrainConfig(min_recordings=5, validation_share=0.25),
        tmp_path / "m",
    )
    print(r.history, r.metrics, r.scores)
