"""Two gloo processes train as one process with the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.distributed import run_ranks
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch.nn.parallel import DistributedDataParallel

from mmseol import experiment
from mmseol.hooks import feed_features

CONFIGS = Path(__file__).parents[1] / "configs"
LOSSES = experiment.LOSSES
# Losses whose ranks do not add up to one process, each with the reason.
EXCEPTIONS = {"lade": "each rank normalises the regulariser over its own share of the batch"}
STEPS, BATCH, SIZE = 20, 4, 32
SUMMED_OVER_RANKS = {"dice", "iou", "tversky"}  # every rank has the loss of the whole batch
# A Lovász loss sorts the pixels of its own rank: one process does the same only image by image.
SETTINGS = {
    "lovasz_softmax": ",per_image=True",
    "lovasz_hinge": ",per_image=True",
    "equalization": ",gamma=1",  # with gamma below 1 each rank draws its own numbers
    "influence_balanced": ",scale=1",  # with the default 1000 an untrained network diverges
}


def train(rank: int, world: int, loss: str) -> list[float]:
    """Return the loss of every step on this rank's share of the batches."""
    cfg = Config.fromfile(CONFIGS / "quickstart" / "toy_camvid.py")
    cfg.model.backbone.update(stem_channels=8, base_channels=8)
    cfg.model.decode_head.update(in_channels=(16, 32, 64), jpu_channels=8, channels=8, dropout_ratio=0)
    cfg.model.auxiliary_head.update(in_channels=32, channels=8, dropout_ratio=0)
    cfg.model.data_preprocessor.size = (SIZE, SIZE)
    experiment.set_loss(cfg, f"{loss}:sync_avg_factor=True{SETTINGS.get(loss, '')}")
    init_default_scope("mmseg")
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for module in model.modules():
        if hasattr(module, "set_class_counts"):
            module.set_class_counts([1000 // (k + 1) for k in range(11)])
    feed_features(model)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # a rank's batch statistics are not the whole batch's
    network = model if world == 1 else DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    losses = []
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), generator=generator)
        labels = torch.randint(0, 11, (BATCH, 1, SIZE, SIZE), generator=generator)
        labels[0, :, : step + 5] = 255  # the ranks have unequal numbers of valid pixels
        mine = range(rank, BATCH, world)
        samples = [SegDataSample(gt_sem_seg=PixelData(data=labels[i])) for i in mine]
        for sample in samples:
            sample.set_metainfo({"img_shape": (SIZE, SIZE), "ori_shape": (SIZE, SIZE)})
        data = {"inputs": [images[i] for i in mine], "data_samples": samples}
        outputs = network(**model.data_preprocessor(data, training=True), mode="loss")
        total, _ = model.parse_losses(outputs)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    return losses


@pytest.mark.parametrize("loss", sorted(LOSSES.keys() - EXCEPTIONS.keys()))
def test_losses_of_twenty_steps_equal_one_process(loss):
    one = torch.tensor(train(0, 1, loss))
    ranks = torch.tensor(run_ranks(train, 2, loss))
    torch.testing.assert_close(ranks.mean(0), one, rtol=1e-5, atol=0)
    if loss in SUMMED_OVER_RANKS:
        torch.testing.assert_close(ranks[0], ranks[1])
    else:
        assert (ranks[0] - ranks[1]).abs().max() > 1e-5  # each rank saw its own share
