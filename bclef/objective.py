"""What training minimises: the loss of a batch with the augmentation that was drawn for it."""

import torch.distributed
from torch import Tensor

from bclef.augment import Clips, augment_images, augment_waves
from bclef.dataset import Batch
from bclef.losses import LEAST_MASS, LossConfig, Truth, total_loss
from bclef.models import BirdModel

FULL_SCALE = 32768
"""Value of an int16 sample that stands for a float of 1."""


def training_loss(model: BirdModel, batch: Batch, config: LossConfig) -> Tensor:
    """Returns the loss of `model` on `batch`, a scalar on the batch's device.

    Waves and images are augmented in float32 under any autocast, which is for the network alone.
    Gradients averaged over processes that each take their rows of one batch equal those of one
    process with all rows, but for the soft area under the curve (`bclef.losses.soft_auc`).
    """
    # A pitch is shifted by a convolution: in half precision its noise is 54 dB below the clip.
    with torch.autocast(batch.wave.device.type, enabled=False):
        clips = Clips(_floats(batch.wave), batch.target, batch.mask, batch.weight)
        clips = augment_waves(clips, _floats(batch.noise), batch.draws, model.spec.sample_rate_hz)
        clips = augment_images(clips._replace(signal=model.images(clips.signal)), batch.draws)
    image, target, mask, weight = (part[: batch.n_kept] for part in clips)
    logits = model.features(image)
    truth = Truth(target, mask, weight, _divisor(batch, config))
    return total_loss(logits.clip.float(), logits.frames.float(), truth, config)


def _floats(pcm: Tensor) -> Tensor:
    # In place: on a CPU, fresh memory for a whole batch costs far more than the product itself.
    return pcm.float().mul_(1 / FULL_SCALE)


def _divisor(batch: Batch, config: LossConfig) -> float:
    """What a process divides its sum of losses by; what the gradients' average leaves right."""
    if not config.loss_sum:
        return max(batch.total_weight, LEAST_MASS)
    is_one_of_many = torch.distributed.is_available() and torch.distributed.is_initialized()
    return 1 / torch.distributed.get_world_size() if is_one_of_many else 1.0
