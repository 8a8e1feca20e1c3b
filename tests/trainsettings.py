"""Plain settings of losses and sampling, of which tests change what they are about."""

from bclef.clipsampling import SamplingConfig

LOSS = {
    "loss": "bce",
    "clip_loss_weight": 1.0,
    "frame_loss_weight": 0.0,
    "soft_auc_weight": 0.0,
    "soft_auc_on": "probability",
    "loss_sum": False,
}

SAMPLING = SamplingConfig(
    window_s=1.0,
    crop_place="uniform",
    short_clips="left",
    self_mixup_s=None,
    min_rating=0.0,
    sampler="uniform",
    copies_up_to=None,
    max_per_class=None,
    secondary_label_value=1.0,
    label_smoothing=0.0,
    smoothing="spread",
    rating_weight=False,
    background_weight=1.0,
    scored_labels=None,
)
