"""Reports of runs: what they read, what they show, and what they say about gaps."""

from __future__ import annotations

import json
import shutil
import subprocess
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers.run_folders import CLASSES, CONFUSION, write_evaluation, write_run
from PIL import Image

from mmseol.__main__ import main
from mmseol.analysis.reporting import rendering
from mmseol.analysis.reporting.page_parts import Links, Note, Picture, Report, Section
from mmseol.analysis.reporting.plain_config import plain_config
from mmseol.analysis.reporting.run_folder import read_run
from mmseol.analysis.reporting.run_sections import run_report
from mmseol.analysis.reporting.score_sections import seed_groups

ROOT = Path(__file__).parents[1]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """A page as a list of elements and its text; unbalanced tags are an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(path.read_text())
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "mse"), write_run(folder / "ce", "CrossEntropyLoss", lr=0.1)


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory) -> Page:
    out = tmp_path_factory.mktemp("page") / "report.html"
    main("report", [str(runs[0]), str(runs[1]), "--out", str(out)])
    assert out.stat().st_size < rendering.LARGEST
    return Page(out)


def gaps(report: Report) -> str:
    notes = [block for section in report.sections for block in section.blocks if isinstance(block, Note)]
    return " ".join(note.text for note in notes if note.gap)


# ------------------------------------------------------------------ reading


def test_a_run_is_read_as_it_was_written(runs):
    run = read_run(runs[0])
    assert (run.name, run.task, run.class_score, run.metric, run.config_name, run.gaps) == (
        *("mse", "segmentation", "IoU", "mIoU", "fastfcn_r18"),
        [],
    )
    assert run.losses["decode_head"] == "OutlyingMSELoss(alpha=6)"
    assert run.curve("loss") == ([10, 20], [2.0, 1.0])
    assert [one.when for one in run.validations] == ["epoch 1", "epoch 2"]
    assert run.best is run.validations[0]  # equal scores: the first
    assert run.validations[1].confusion().tolist() == (2 * CONFUSION).tolist()
    assert [path.name for path in run.pictures] == ["prediction_a_2.png"]


def test_a_config_is_read_without_running_it(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("import os\nmodel = dict(type=os.getcwd())\n")
    with pytest.raises(ValueError, match=r"another expression in a\.py:1"):
        plain_config(path)
    path.write_text("model = dict(type=print('run'))\n")
    with pytest.raises(ValueError, match="plain values"):
        plain_config(path)
    path.write_text("'''A docstring.'''\na = dict(b=[(1, -2.5), {'c': None}], d=dict())\n")
    assert plain_config(path) == {"a": {"b": [(1, -2.5), {"c": None}], "d": {}}}


def test_the_config_dump_of_mmengine_is_plain(tmp_path):
    from mmengine.config import Config

    cfg = Config.fromfile(ROOT / "configs" / "camvid" / "fastfcn_r18.py")
    cfg.dump(tmp_path / "dump.py")
    assert plain_config(tmp_path / "dump.py") == cfg.to_dict()


def test_the_last_validation_of_an_epoch_counts_and_a_resumed_run_goes_on(runs, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    resumed = folder / "20260102_000000"
    (resumed / "vis_data").mkdir(parents=True)
    (resumed / "vis_data" / "scalars.json").write_text(
        '{"loss": 0.5, "iter": 20, "epoch": 2}\n{"loss": 0.4, "it'
    )
    for epoch in (2, 10):
        write_evaluation(resumed, {"stage": "val", "epoch": epoch, "iter": 10 * epoch}, np.diag([9, 9, 9]))
    (folder / "fastfcn_r18_resumed_1.py").write_text("import os")
    run = read_run(folder)
    assert [one.epoch for one in run.validations] == [1, 2, 10]
    assert run.validations[1].scores["mIoU"] == 100
    assert run.curve("loss") == ([10, 20], [2.0, 0.5])
    assert run.gaps == ["Line 2 of scalars.json in 20260102_000000 is broken."]


@pytest.mark.parametrize("name", ["missing", "empty", "other"])
def test_a_folder_of_something_else(tmp_path, name, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other" / "a").mkdir(parents=True)
    (tmp_path / "other" / "setup.py").write_text("import os")
    (tmp_path / "other" / "a" / "class_scores_test.json").write_text("[]")
    with pytest.raises(SystemExit):
        main("report", [str(tmp_path / name), "--out", str(tmp_path / "report.html")])
    assert "`work_dir` must be" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


# ------------------------------------------------------------------ content


def test_runs_that_differ_in_their_seed_are_one_group(tmp_path):
    runs = [
        read_run(write_run(tmp_path / f"{lr}_{seed}", lr=lr, seed=seed))
        for lr in (1.0, 2.0)
        for seed in (1, 2)
    ]
    assert [[run.name for run in group] for group in seed_groups(runs).values()] == [
        ["1.0_1", "1.0_2"],
        ["2.0_1", "2.0_2"],
    ]
    tables = next(section for section in run_report(runs).sections if section.title == "Scores").blocks
    assert [row[0] for row in tables[0].rows[-2:]] == ["1.0_1: 2 seeds", "2.0_1: 2 seeds"]


def test_a_comparison_shows_what_ran_and_how_it_scored(page):
    for text in (
        "OutlyingMSELoss(alpha=6)",
        "tools/train.py a.py --seed 1",
        "optim_wrapper.optimizer.lr",
        "9,810",
    ):
        assert text in page.text
    iou = CONFUSION[2, 2] / (CONFUSION[2].sum() + CONFUSION[:, 2].sum() - CONFUSION[2, 2])
    assert page.text.count(f"{100 * iou:.2f}") == 2
    assert [element["alt"] for element in page.all("img")] == [
        "pixels of each class, linear and logarithmic",
        "IoU of each class, from the most to the least frequent",
        "validation mIoU",
        "mse: IoU of each class by epoch",
        "ce: IoU of each class by epoch",
        "loss by iteration",
        "lr by iteration",
        "mse: confusion matrix, validation, epoch 1",
        "ce: confusion matrix, validation, epoch 1",
        "mse: prediction a 2",
        "ce: prediction a 2",
    ]


def test_a_page_is_whole_in_itself(page, tmp_path):
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe", "object"})
    for image in page.all("img"):
        kind, _, content = image["src"].partition(";base64,")
        path = tmp_path / "picture"
        path.write_bytes(b64decode(content))
        with Image.open(path) as picture:
            assert kind == f"data:image/{picture.format.lower()}"
            picture.load()
    assert all("://" not in (link["href"] or "") for link in page.all("a"))
    sections = {element.get("id") for tag, element in page.elements if tag in ("section", "details")}
    assert {link["href"][1:] for link in page.all("a") if link["href"].startswith("#")} == sections
    assert "width=device-width, initial-scale=1" in [meta.get("content") for meta in page.all("meta")]
    style = " ".join(page.text)
    assert "prefers-color-scheme: dark" in style
    assert "http" not in style


def test_links_lead_from_the_page_to_the_files(runs, tmp_path):
    out = runs[0] / "pages" / "a b" / "report.html"
    main("report", [str(runs[0]), "--out", str(out)])
    links = [link["href"] for link in Page(out).all("a") if not link["href"].startswith("#")]
    assert "../../class_counts.json" in links
    assert all((out.parent / link).is_file() for link in links)
    shutil.rmtree(runs[0] / "pages")


def test_markdown_has_its_pictures_beside_it(runs, tmp_path):
    out = tmp_path / "report.md"
    main("report", [str(runs[0]), "--out", str(out), "--title", "Roads & cars"])
    text = out.read_text()
    assert text.startswith("# Roads & cars\n")
    assert "| pole |" in text
    names = [line.partition("](<")[2][:-2] for line in text.splitlines() if line.startswith("![")]
    assert len(names) == 8
    assert all((tmp_path / name).is_file() for name in names)


def test_the_settings_of_a_run_beside_those_of_our_config(runs):
    first = run_report([read_run(runs[1])]).sections[0]
    table = next(
        block for block in first.blocks if getattr(block, "title", "") != "" and hasattr(block, "rows")
    )
    assert table.title == "Settings that differ from camvid/fastfcn_r18.py"
    assert ["optim_wrapper.optimizer.lr", "0.01", "0.1"] in [list(row) for row in table.rows]


# --------------------------------------------------------------------- gaps


def test_gaps_are_said(runs, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    log = folder / "20260101_000000"
    (folder / "class_counts.json").unlink()
    (log / "command.json").unlink()
    for path in log.glob("class_scores_*"):
        path.unlink()
    with (log / "vis_data" / "scalars.json").open("a") as file:
        file.write('{"loss": NaN, "iter": 30}\n')
    text = gaps(run_report([read_run(folder)]))
    for said in (
        "did not count its training data",
        "The command was not written",
        "No counts of the training data are known.",
        "run has no evaluation",
        "There are no scores of classes",
        "No run has a validation with mIoU.",
        "1 logged losses are not finite",
    ):
        assert said in text


def test_a_class_without_a_score_is_said_and_not_a_zero(runs, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    log = folder / "20260101_000000"
    for path in log.glob("class_scores_*"):
        path.unlink()
    write_evaluation(
        log, {"stage": "val", "epoch": 1, "iter": 10}, np.array([[5, 0, 1], [0, 0, 0], [0, 0, 0]])
    )
    report = run_report([read_run(folder)])
    assert "neither in the truth nor predicted: pole." in gaps(report)
    assert "not in the truth: car." in gaps(report)
    table = next(s for s in report.sections if s.title == "Scores of each class").blocks[1]
    assert dict(zip(table.headings, table.rows[CLASSES.index("pole")], strict=True))["IoU"] == "-"


def test_broken_files_are_gaps(runs, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    log = folder / "20260101_000000"
    (log / "class_scores_val_epoch_1.npz").write_bytes(b"PK")
    (log / "class_scores_val_epoch_2.json").write_text('{"classes": [')
    (log / "vis_data" / "vis_image" / "prediction_a_2.png").write_text("no picture")
    (folder / "class_counts.json").write_text("{}")
    (folder / "best_decision").mkdir()
    (folder / "best_decision" / "decision.json").write_text("{}")
    text = gaps(run_report([read_run(folder)]))
    for said in (
        "`confusion`",
        "class_scores_val_epoch_2.json",
        "prediction_a_2.png",
        "counts are not read",
        "decision.json is not read",
    ):
        assert said in text


def test_runs_of_other_classes_are_not_compared(runs, tmp_path):
    folder = shutil.copytree(runs[0], tmp_path / "run")
    for path in folder.glob("*/class_scores_*.json"):
        path.write_text(path.read_text().replace('"pole"', '"bus"'))
    with pytest.raises(
        ValueError, match=r"same classes, got 3 \(road, pole, car\) of mse and 3 \(road, bus, car\) of run"
    ):
        run_report([read_run(runs[0]), read_run(folder)])
    with pytest.raises(ValueError, match="different names"):
        run_report([read_run(runs[0]), read_run(runs[1], "mse")])


def test_pictures_beyond_the_size_of_a_page_are_named(monkeypatch):
    monkeypatch.setattr(rendering, "LARGEST", 1_000_000)
    pictures = [Picture(f"picture {n}", bytes(100_000), "png", 3.0) for n in range(4)]
    page = rendering.html_page(Report("Large", [Section("Pictures", pictures)]))
    assert page.count("<img") == 2
    assert "Left out, for the page would exceed 1 MB: picture 2" in page


def test_text_cannot_become_markup(tmp_path):
    blocks = [Note("<script>a</script>", gap=True), Links([("<b>", tmp_path / 'x" onclick="a.py')])]
    page = rendering.html_page(Report("<i>", [Section("&", blocks)]), tmp_path)
    assert "<script" not in page
    assert 'onclick="a' not in page
    assert "<title>&lt;i&gt;</title>" in page


def test_an_existing_page_is_kept(runs, tmp_path, capsys):
    out = tmp_path / "report.html"
    out.write_text("mine")
    with pytest.raises(SystemExit):
        main("report", [str(runs[0]), "--out", str(out)])
    assert "exists; name another file, or add --force" in capsys.readouterr().err
    assert out.read_text() == "mine"
    with pytest.raises(SystemExit):
        main("report", [str(runs[0]), "--out", str(tmp_path / "report.pdf")])
    assert "must end in .html or .md" in capsys.readouterr().err


def test_the_record_of_a_sweep_becomes_a_page(tmp_path):
    out = tmp_path / "sweep.html"
    main("report", [str(ROOT / "results" / "losses_digits" / "record.json"), "--out", str(out)])
    page = Page(out)
    assert [image["alt"].split(",")[0] for image in page.all("img")] == [
        "images of each class",
        "recall of each class",
    ]
    assert "balanced_softmax" in page.text


def test_a_browser_shows_the_page_without_errors_or_sideways_scrolling(runs, tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    main("report", [str(runs[0]), "--out", str(tmp_path / "report.html")])
    frame = "<iframe src='report.html' style='border:0;width:390px;height:900px' onload=\"{}\"></iframe>"
    script = (
        "const page=this.contentDocument.documentElement;"
        "const pictures=[...this.contentDocument.images];"
        "document.title=JSON.stringify({wide:page.scrollWidth,"
        "loaded:pictures.filter(one=>one.complete&&one.naturalWidth>0).length,all:pictures.length})"
    )
    (tmp_path / "phone.html").write_text(f"<body>{frame.format(script)}</body>")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run(
        [browser, *options, (tmp_path / "phone.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    found = json.loads(title.replace("&quot;", '"'))
    assert found["wide"] <= 390
    assert found["loaded"] == found["all"] == 8
