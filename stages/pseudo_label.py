"""Stage `pseudo_label@R`: soft labels of unlabelled soundscapes for round R."""

from pathlib import Path

import pandas as pd

from bclef.pseudolabels import PSEUDO, PseudoLabelConfig, make_pseudo_labels
from bclef.stage import stage
from bclef.tables import empty_table, read_table, write_table
from bclef.taxonomy import read_classes
from bclef.windowscores import read_fold_scores, window_scores_schema
from stages import item_argument

FEATURE_INDEX_NEEDS = {"recording_id": "string", "role": "string", "annotated": "bool"}

if __name__ == "__main__":
    item = item_argument("round")
    with stage("pseudo_label", item) as run:
        round_ = int(item)
        config = run.params.section(PseudoLabelConfig, "pseudo_label")
        classes = read_classes(Path("data/classes.parquet"))
        schema = PSEUDO.with_columns(dict.fromkeys(classes.labels, "float32"))
        windows, metrics = empty_table(schema), {}
        masses = pd.DataFrame(columns=["label", "label_mass"])
        if round_ <= config.rounds:
            index = read_table(Path("data/features/index.parquet"), FEATURE_INDEX_NEEDS)
            unlabelled = index[(index["role"] == "soundscape") & ~index["annotated"]]
            student = Path(f"data/scores/distill/{round_ - 1}/scores.parquet")
            labels = make_pseudo_labels(
                list(read_fold_scores(Path("data/scores/finetune"), classes).values()),
                read_table(student, window_scores_schema(classes.labels)) if round_ > 1 else None,
                unlabelled["recording_id"].tolist(),
                classes,
                config,
            )
            windows, metrics, masses = labels.windows, labels.summary(), labels.mass_per_class()
        write_table(windows, Path(f"data/pseudo/{round_}.parquet"), schema)
        run.write_plot(masses)
        run.write_metrics(metrics)
