"""The command that writes features: they are those of the classifier, at the place of each pixel."""

from __future__ import annotations

import shutil
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.seg_heads import samples, segmentor
from helpers.untrained import SCENE_OPTIONS, untrained
from mmengine.config import Config
from mmengine.structures import PixelData
from mmpretrain.structures import DataSample
from mmseg.models.utils import resize
from PIL import Image
from torch import nn

from mmseol.__main__ import main
from mmseol.analysis.features import load_features
from mmseol.experiment import feature_extraction
from mmseol.experiment.checkpoint_pass import CheckpointPass
from mmseol.experiment.feature_extraction import (
    FeatureReader,
    prepare_features,
    run_features,
    sample_map,
    sampling_grid,
)
from mmseol.version import __version__

CONFIGS = Path(__file__).parents[1] / "configs" / "quickstart"


@pytest.mark.parametrize("align_corners", [False, True])
def test_outputs_at_a_pixel_are_the_hosts_and_follow_from_its_features(align_corners, mmseg_scope):
    model = segmentor("ce").eval()
    model.align_corners = model.decode_head.align_corners = align_corners
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    label = torch.arange(32 * 40).view(1, 32, 40) % 4
    (sample,) = samples()[:1]
    sample.set_metainfo(dict(img_shape=(32, 40), ori_shape=(32, 40)))
    sample.gt_sem_seg = PixelData(data=label)
    image = torch.randint(256, (3, 32, 40), dtype=torch.uint8)
    reader = FeatureReader(model, "decode_head.conv_seg")
    (predicted,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
    (found,) = reader.read([predicted])
    assert found.labels.tolist() == label.flatten().tolist()
    chosen = np.random.default_rng(0).choice(32 * 40, 200, replace=False)
    arrays = found.read(chosen)
    expected = predicted.seg_logits.data.flatten(1)[:, chosen].T.detach().numpy()
    np.testing.assert_allclose(arrays["outputs"], expected, atol=1e-4)
    assert arrays["features"].std() > 0
    weight, bias = (one.detach().numpy() for one in model.decode_head.conv_seg.parameters())
    np.testing.assert_allclose(arrays["features"] @ weight[:, :, 0, 0].T + bias, expected, atol=1e-4)
    assert (arrays["position"] @ [40, 1]).tolist() == chosen.tolist()
    (predicted,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
    predicted.gt_sem_seg = PixelData(data=label[:, :31])
    with pytest.raises(ValueError, match=r"size of the predictions, \(32, 40\), got \(31, 40\) for"):
        list(reader.read([predicted]))


@pytest.mark.parametrize("align_corners", [False, True])
def test_padding_and_resizing_are_undone_as_the_host_does(align_corners):
    """The host resizes a map to the input, cuts the padding off and resizes to the label map."""
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(24.0), indexing="ij")
    ramp = torch.stack([rows, columns])
    whole = resize(ramp[None], size=(64, 96), mode="bilinear", align_corners=align_corners)
    inner = whole[:, :, 4:-8, 6:-10]
    labels = (104, 160)
    expected = resize(inner, size=labels, mode="bilinear", align_corners=align_corners)[0]
    position = np.stack(np.meshgrid(np.arange(2, 102), np.arange(2, 158), indexing="ij"), -1).reshape(-1, 2)
    meta = dict(img_shape=(52, 80), pad_shape=(64, 96), img_padding_size=(6, 10, 4, 8))
    found = sample_map(ramp, sampling_grid(position, labels, meta, align_corners), align_corners)
    np.testing.assert_allclose(found, expected[:, position[:, 0], position[:, 1]].T, atol=2e-3)


def test_pixels_of_each_class_are_written(toy, tmp_path, capsys):
    data = tmp_path / "toy"
    shutil.copytree(toy, data)
    for path in (data / "valannot").iterdir():  # no pole, and one pixel of a sign
        labels = np.array(Image.open(path))
        labels[np.isin(labels, (2, 6))] = 11
        if path.name == min(one.name for one in (data / "valannot").iterdir()):
            labels[5, 7] = 6
        Image.fromarray(labels).save(path)
    checkpoint = untrained(CONFIGS / "toy_camvid.py", tmp_path, 0, *SCENE_OPTIONS)
    (tmp_path / "class_counts.json").write_text(str(list(range(100, 1200, 100))))
    arguments = [str(CONFIGS / "toy_camvid.py"), checkpoint, "--data-root", str(data), "--per-class", "20"]
    arguments += ["--cfg-options", *SCENE_OPTIONS]
    main("analyze", ["features", *arguments, "--out", str(tmp_path / "a.npz")])
    found = load_features(tmp_path / "a.npz")
    maps = [np.asarray(Image.open(path)) for path in sorted((data / "valannot").iterdir())]
    for label, image, (row, column) in zip(found.label, found.image, found.position, strict=True):
        assert maps[image][row, column] == label
    assert found.position[found.label == 6].tolist() == [[5, 7]]
    assert found.seen.tolist() == [sum(int((one == k).sum()) for one in maps) for k in range(11)]
    assert (found.seen[2], found.seen[6]) == (0, 1)
    assert np.bincount(found.label, minlength=11).tolist() == np.minimum(found.seen, 20).tolist()
    assert found.features.shape == (len(found.label), 8)
    assert found.counts.tolist() == list(range(100, 1200, 100))
    assert found.meta["counts_from"].endswith("class_counts.json")
    assert found.meta["task"] == "segmentation"
    assert "none there" in capsys.readouterr().out
    options = ["val_dataloader.batch_size=2", "model.test_cfg.mode=slide", "model.test_cfg.crop_size=(32,32)"]
    main("analyze", ["features", *arguments, *options, "--out", str(tmp_path / "b.npz")])
    other = load_features(tmp_path / "b.npz")  # crops are not read, whole images are
    np.testing.assert_allclose(other.features, found.features, atol=1e-4)
    np.testing.assert_array_equal(other.position, found.position)


def test_images_of_each_class_are_written(tmp_path, capsys):
    checkpoint = untrained(CONFIGS / "digits.py", tmp_path)
    arguments = ["features", str(CONFIGS / "digits.py"), checkpoint, "--per-class", "7"]
    main("analyze", [*arguments, "--out", str(tmp_path / "a.npz")])
    found = load_features(tmp_path / "a.npz")
    assert np.bincount(found.label).tolist() == [7] * 10
    assert found.meta["counts_from"] == "val split"
    assert found.counts.tolist() == found.seen.tolist()
    assert (found.position == -1).all()
    state = torch.load(checkpoint)["state_dict"]
    expected = found.features @ state["head.fc.weight"].numpy().T + state["head.fc.bias"].numpy()
    np.testing.assert_allclose(found.outputs, expected, atol=1e-5)
    assert "Training counts: val split." in capsys.readouterr().out

    def error_of(*more: str, given: str = checkpoint) -> str:
        with pytest.raises(SystemExit) as caught:
            main("analyze", ["features", str(CONFIGS / "digits.py"), given, *more])
        assert caught.value.code not in (0, None)
        return str(caught.value) + capsys.readouterr().err

    new = ("--out", str(tmp_path / "new.npz"))
    assert "`checkpoint` must be an existing file" in error_of(*new, given="missing.pth")
    assert "exists; name another file" in error_of("--out", str(tmp_path / "a.npz"))
    assert "`--out` must end in .npz" in error_of("--out", str(tmp_path / "a.npy"))
    assert "`--per-class` must be a whole number of at least 1, got 0" in error_of(*new, "--per-class", "0")
    text = error_of(*new, "--cfg-options", "model.head.num_classes=9")
    assert "head.fc.weight is of shape (10, 32) there and (9, 32) here" in text
    assert "`classifier` must be the name of the layer" in error_of(*new, "--classifier", "head.fd")
    torch.save(
        {"state_dict": {**state, "head.fc.bias": state["head.fc.bias"] * np.nan}}, tmp_path / "nan.pth"
    )
    assert "`outputs` of" in (text := error_of(*new, given=str(tmp_path / "nan.pth")))
    assert "the checkpoint has diverged" in text
    assert not (tmp_path / "new.npz").exists()


def test_data_of_other_classes_are_refused(tmp_path, capsys):
    checkpoint = untrained(CONFIGS / "digits.py", tmp_path, 0, "model.head.num_classes=11")
    out = ("--out", str(tmp_path / "a.npz"), "--cfg-options", "model.head.num_classes=11")
    with pytest.raises(
        SystemExit, match=r"^error: The data set must have the 11 classes of head\.fc, got 10"
    ):
        main("analyze", ["features", str(CONFIGS / "digits.py"), checkpoint, *out])


# ------------------------------------------------------------------ without a checkpoint


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(per_class=0), "`--per-class` must be a whole number of at least 1, got 0"),
        (dict(seed=-1), "`--seed` must be a whole number of at least 0, got -1"),
        (dict(out="a.npy"), r"`--out` must end in \.npz, got 'a\.npy'"),
        (dict(out="there.npz"), r"`--out` '.*there\.npz' exists; name another file"),
    ],
)
def test_arguments_are_checked_before_anything_is_read(tmp_path, given, message):
    (tmp_path / "there.npz").touch()
    args = Namespace(**{**dict(per_class=1, seed=0, out="new.npz"), **given})
    if args.out == "there.npz":
        args.out = str(tmp_path / args.out)
    with pytest.raises(ValueError, match=message):
        prepare_features(args)


@pytest.mark.parametrize("mode", ["slide", "whole", None])
def test_features_are_those_of_whole_images(monkeypatch, mode):
    test_cfg = None if mode is None else dict(mode=mode, stride=(2, 2))
    cfg = Config(dict(model=dict(type="A", **({} if test_cfg is None else dict(test_cfg=test_cfg)))))
    monkeypatch.setattr(feature_extraction, "split_config", lambda *_: (cfg, {"state_dict": {}}))
    args = Namespace(per_class=1, seed=0, out="new.npz", config="a.py", checkpoint="a.pth")
    assert prepare_features(args) is cfg
    assert args.loaded == {"state_dict": {}}
    assert cfg.model.get("test_cfg") == (dict(mode="whole") if mode == "slide" else test_cfg)


class Head(nn.Module):
    def __init__(self, ignore_index):
        super().__init__()
        self.fc, self.ignore_index, self.align_corners = nn.Linear(2, 3), ignore_index, True


@pytest.mark.parametrize(("given", "ignored"), [(7, 7), (None, 255), (True, 255)])
def test_a_reader_asks_the_last_head(given, ignored):
    model = nn.ModuleDict({"head": Head(given), "heads": nn.ModuleList([Head(1), Head(given)])})
    for name in ("head.fc", "heads.1.fc"):
        reader = FeatureReader(model, name)
        assert (reader.ignore_index, reader.align_corners, reader.classes) == (ignored, True, 3)
        reader.close()
    assert FeatureReader(nn.ModuleDict({"fc": nn.Linear(2, 3)}), "fc").align_corners is False


def labelled(label):
    sample = DataSample(metainfo={"img_path": "a.png"})
    return sample if label is None else sample.set_gt_label(label)


def test_images_have_one_class_of_the_layer():
    model = nn.ModuleDict({"fc": nn.Linear(2, 3)})
    reader = FeatureReader(model, "fc")
    inputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    outputs = model["fc"](inputs).detach()
    first, second = reader.read([labelled(2), labelled(0)])
    assert (first.labels.tolist(), second.labels.tolist()) == ([2], [0])
    read = second.read(np.array([0]))
    np.testing.assert_array_equal(read["features"], inputs[1:])
    np.testing.assert_array_equal(read["outputs"], outputs[1:])
    assert read["position"].tolist() == [[-1, -1]]
    for given, message in (
        ([labelled(0)] * 2, r"must be of shape \(N, C\) for the 2 images of a batch, got None and None"),
        ([labelled(0)], r"for the 1 images of a batch, got \(2, 2\) and \(2, 3\)\. Name the layer"),
        ([labelled(None), labelled(0)], "one class per image, got another label for a.png"),
        ([labelled([0, 1]), labelled(0)], "one class per image, got another label for a.png"),
        ([labelled(3), labelled(0)], "`gt_label` must be classes 0 to 2, got 3 in a.png"),
    ):
        if "None and None" not in message:
            model["fc"](inputs)
        with pytest.raises(ValueError, match=message):
            list(reader.read(given))
    reader.close()
    model["fc"](inputs)
    assert reader.inputs is None


def test_features_of_a_split(monkeypatch, tmp_path, capsys):
    torch.manual_seed(0)
    model = nn.ModuleDict({"head": nn.ModuleDict({"fc": nn.Linear(2, 3)})})
    inputs, labels = torch.randn(5, 2), [0, 2, 0, 0, 2]

    def batches(text):
        for own in (slice(0, 2), slice(2, 5)):
            model["head"]["fc"](inputs[own])
            yield None, [labelled(label) for label in labels[own]]

    source = SimpleNamespace(model=model, classes=(), batches=batches)
    given = []
    monkeypatch.setattr(CheckpointPass, "of", staticmethod(lambda *args: given.append(args) or source))
    args = Namespace(config="a.py", checkpoint=str(tmp_path / "a.pth"), split="val", seed=4, per_class=2)
    vars(args).update(out=str(tmp_path / "a.npz"), unsafe_load=False, loaded={}, device="d", counts=None)
    args.classifier = None
    run_features("cfg", args)
    assert given == [("cfg", args.checkpoint, {}, "d")]
    found = load_features(args.out)
    assert found.classes == ("0", "1", "2")
    assert found.seen.tolist() == found.counts.tolist() == [3, 0, 2]
    assert found.label.tolist() == [0, 0, 2, 2]
    assert [labels[image] for image in found.image] == found.label.tolist()
    np.testing.assert_array_equal(found.features, inputs[found.image])
    names = ("config", "checkpoint", "split", "seed", "per_class")
    assert found.meta == {
        **{name: getattr(args, name) for name in names},
        **{"task": "classification", "classifier": "head.fc", "counts_from": "val split"},
        **{"version": __version__, "format": 1},
    }
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    right = found.predicted == found.label
    assert rows == [
        ["0", "3", "3", "2", f"{100 * right[:2].mean():.1f} %"],
        ["1", "0", "0", "0", "none there"],
        ["2", "2", "2", "2", f"{100 * right[2:].mean():.1f} %"],
    ]
    assert lines[-1] == f"Wrote {args.out}: 4 features of 2 numbers. Training counts: val split."
    (tmp_path / "class_counts.json").write_text("[9, 5, 1]")
    args.out, args.loaded = str(tmp_path / "b.npz"), {}
    run_features("cfg", args)
    assert load_features(args.out).counts.tolist() == [9, 5, 1]
    source.batches, args.loaded = lambda text: [], {}
    with pytest.raises(ValueError, match="The val split has no labelled element of any class"):
        run_features("cfg", args)
    source.classes, args.loaded = ("a", "b"), {}
    with pytest.raises(ValueError, match=r"must have the 3 classes of head\.fc, got 2: a, b\."):
        run_features("cfg", args)
