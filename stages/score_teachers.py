"""Stage `score_teachers`: every fold model scores all soundscapes."""

from pathlib import Path

from bclef.inference import ScoreConfig, score_soundscapes
from bclef.modelfiles import read_card
from bclef.skipped import worked_folders
from bclef.stage import stage
from bclef.tables import atomic_dir, write_table
from bclef.windowscores import window_scores_schema

if __name__ == "__main__":
    with stage("score_teachers") as run, atomic_dir(Path("data/scores/finetune")) as folder:
        config = run.params.section(ScoreConfig, "score")
        for model_dir in worked_folders(Path("models/finetune")):
            scores = score_soundscapes(model_dir, Path("data/features"), config)
            schema = window_scores_schema(read_card(model_dir).labels)
            write_table(scores, folder / f"{model_dir.name}.parquet", schema)
