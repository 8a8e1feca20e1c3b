"""Stage `pseudo_label@R`: soft labels of unlabelled soundscapes for round R."""

import sys
from pathlib import Path

from bclef.pseudolabels import PSEUDO, PseudoLabelConfig, make_pseudo_labels
from bclef.stage import stage
from bclef.tables import empty_table, read_table, write_table
from bclef.taxonomy import read_classes

FEATURE_INDEX_NEEDS = {"recording_id": "string", "role": "string", "annotated": "bool"}
WINDOW_SCORES_NEEDS = {"recording_id": "string", "start_s": "float64", "end_s": "float64"}

if __name__ == "__main__":
    round_ = sys.argv[1]
    with stage("pseudo_label", round_) as run:
        config = run.params.section(PseudoLabelConfig, "pseudo_label")
        classes = read_classes(Path("data/classes.parquet"))
        columns = dict.fromkeys(classes.labels, "float32")
        out = Path("data/pseudo") / f"{round_}.parquet"
        if int(round_) > config.rounds:
            run.skip(f"round {round_} is beyond pseudo_label.rounds = {config.rounds}")
            write_table(empty_table(PSEUDO.with_columns(columns)), out, PSEUDO.with_columns(columns))
            run.write_metrics({})
            sys.exit()
        index = read_table(Path("data/features/index.parquet"), FEATURE_INDEX_NEEDS)
        unlabelled = index[(index["role"] == "soundscape") & ~index["annotated"]]
        teachers = [
            read_table(path, WINDOW_SCORES_NEEDS | columns)
            for path in sorted(Path("data/scores/finetune").glob("*.parquet"))
        ]
        previous = Path(f"data/scores/distill/{int(round_) - 1}/scores.parquet")
        labels = make_pseudo_labels(
            teachers,
            read_table(previous, WINDOW_SCORES_NEEDS | columns) if round_ != "1" else None,
            unlabelled["recording_id"].tolist(),
            classes,
            config,
        )
        write_table(labels.windows, out, PSEUDO.with_columns(columns))
        run.write_metrics(labels.summary())
