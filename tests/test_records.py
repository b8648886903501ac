"""Records of runs, and that the README shows what they say."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.metrics import jaccard_score

from mmseol.analysis.markdown import markdown
from mmseol.analysis.records import iou_of_maps, iou_record, scores_record

ROOT = Path(__file__).parents[1]


def test_iou_of_maps_is_scikit_learns(tmp_path):
    rng = np.random.default_rng(0)
    samples, truths, predictions = [], [], []
    for i in range(3):
        truth, predicted = rng.integers(0, 6, (2, 8, 9)).astype(np.uint8)
        truth[truth == 5] = 11  # void
        predicted[predicted == 5] = 0
        for folder, labels in (("truth", truth), ("predicted", predicted)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(labels).save(tmp_path / folder / f"{i}.png")
        samples.append((tmp_path / "unused.png", tmp_path / "truth" / f"{i}.png"))
        truths.append(truth[truth < 5])
        predictions.append(predicted[truth < 5])
    expected = jaccard_score(np.concatenate(truths), np.concatenate(predictions), average=None)
    np.testing.assert_allclose(iou_of_maps(samples, tmp_path / "predicted", 5), expected)


def test_record_and_its_table():
    iou = {"a": np.array([0.5, np.nan]), "b": np.array([0.25, 0.75])}
    record = json.loads(json.dumps(iou_record("t", ["run"], ["x", "y"], iou, seconds=3)))
    assert record["mean_iou"] == {"a": 50.0, "b": 50.0}
    assert record["iou"]["a"] == {"x": 50.0, "y": None}
    assert record["environment"]["versions"]["torch"]
    assert markdown(record).splitlines()[2:] == ["| a | 50.0 | 50.0 |  |", "| b | 50.0 | 25.0 | 75.0 |"]


def test_scores_record_shows_mean_and_spread():
    runs = {"a": [{"accuracy": 40.0, "macro_f1": 30.0}, {"accuracy": 44.0, "macro_f1": 30.0}]}
    record = json.loads(json.dumps(scores_record("t", ["run"], runs)))
    assert record["scores"]["a"] == {"accuracy": [40.0, 44.0], "macro_f1": [30.0, 30.0]}
    assert markdown(record).splitlines()[2] == "| a | 42.0 ± 2.8 | 30.0 ± 0.0 |"
    runs = {"a": runs["a"][:1]}
    assert markdown(scores_record("t", ["run"], runs)).splitlines()[2] == "| a | 40.0 | 30.0 |"


def test_benchmarks_table_leaves_out_the_long_ones():
    row = {"name": "a", "sizes": "3", "time_ratio": 0.12345}
    tables = [{"title": "t", "rows": [row, row | {"memory_ratio": 2.0}]}, {"title": "u", "rows": [row] * 30}]
    assert markdown(tables).splitlines()[2:] == ["| t: a | 3 | 0.123 |  |", "| t: a | 3 | 0.123 | 2.000 |"]


def test_readme_shows_the_records():
    subprocess.run([sys.executable, ROOT / "tools" / "update_readme.py", "--check"], check=True)
    text = (ROOT / "README.md").read_text()
    assert len(re.findall("<!-- record: ", text)) >= 2
    for path in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (ROOT / path).is_file(), path


def test_readme_commands_exist():
    text = (ROOT / "README.md").read_text()
    scripts = set(re.findall(r"(?:bash|python) (tools/[\w/.]+)", text))
    assert {"tools/quickstart.sh", "tools/run_tests.sh", "tools/train.py"} <= scripts
    for script in scripts:
        assert (ROOT / script).is_file(), script
