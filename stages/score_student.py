"""Stage `score_student@R`: the student of round R scores all soundscapes for the next round."""

from pathlib import Path

from bclef.skipped import write_skipped
from bclef.stage import StageRun, stage
from bclef.tables import atomic_dir, write_table
from bclef.windowscores import window_scores_schema
from stages import item_argument


def score(run: StageRun, model_dir: Path, directory: Path) -> None:
    """Writes scores.parquet to `directory`."""
    # Imported here, because a round that is passed over should not wait for torch to load.
    from bclef.inference import ScoreConfig, score_soundscapes
    from bclef.modelfiles import read_card

    config = run.params.section(ScoreConfig, "score")
    scores = score_soundscapes(model_dir, Path("data/features"), config)
    with atomic_dir(directory) as folder:
        schema = window_scores_schema(read_card(model_dir).labels)
        write_table(scores, folder / "scores.parquet", schema)


if __name__ == "__main__":
    item = item_argument("round")
    with stage("score_student", item) as run:
        round_ = int(item)
        directory = Path("data/scores/distill") / str(round_)
        if round_ < run.params.value("pseudo_label.rounds", int):
            score(run, Path("models/distill") / str(round_), directory)
        else:
            write_skipped(directory, f"no round follows round {round_}")
