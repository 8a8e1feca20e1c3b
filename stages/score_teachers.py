"""Stage `score_teachers`: every fold model scores all soundscapes."""

from pathlib import Path

from bclef.inference import ScoreConfig, score_soundscapes, window_scores_schema
from bclef.stage import stage
from bclef.store import Store
from bclef.tables import atomic_dir, write_table
from bclef.modelfiles import is_skipped, read_card

MODELS = Path("models/finetune")
FEATURES = Path("data/features")
