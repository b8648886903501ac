"""Tables of the compact record of a sweep."""

import json
import re

import numpy as np
import pytest
from helpers.sweep_records import CONFIG, ENVIRONMENT, write_trial

from mmseol.analysis.records.sweep_record import sweep_record
from mmseol.analysis.records.trial_records import failed_trials, read_trials
from mmseol.analysis.tabulation.sweep_report import tables_of
from mmseol.analysis.tabulation.sweep_tables import (
    class_tables,
    comparison_tables,
    score_tables,
    setting_tables,
    tuning_tables,
)
from mmseol.analysis.tabulation.text_table import TextTable


def record_of(folder, **arguments):
    return sweep_record(read_trials([folder]), resamples=200, **arguments)


def test_rows_are_sorted_and_show_the_difference_and_peers_column(tmp_path):
    for seed in (1, 2):
        write_trial(tmp_path, "ce", seed, wrong=0.6, best_on_test=1.5)
        write_trial(tmp_path, "mse", seed, wrong=0.2, values={"lr": 0.01, "wd": 5e-4})
    record = record_of(tmp_path)
    (table,) = score_tables(record)
    assert [row[0] for row in table.rows] == ["mse", "ce"]
    assert [row[1:3] for row in table.rows] == [["lr 0.01, wd 0.0005", "2"], ["lr 0.1", "2"]]
    accuracies = record["runs"][0]["scores"]["last"]["accuracy"]
    ce = table.rows[1]
    assert (
        ce[table.headings.index("accuracy")]
        == f"{np.mean(accuracies):.1f} ± {np.std(accuracies, ddof=1):.1f}"
    )
    (row,) = [row for row in record["comparisons"] if row["score"] == "accuracy"]
    low, high = row["images"]
    at = table.headings.index("Δ accuracy to ce [95 %]")
    assert [row[at] for row in table.rows] == [
        f"{row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]",
        "reference",
    ]
    assert table.headings[-1] == "accuracy, best epoch on test, as peers print it"
    assert table.rows[0][-1] == "not scored"
    assert ce[-1].startswith(f"{np.mean(accuracies) + 1.5:.1f} ")
    assert "**" not in table.markdown()


def test_several_cuts_are_columns_and_missing_runs_are_said(tmp_path):
    for imbalance in ("long_tailed:10", "long_tailed:100"):
        write_trial(tmp_path, "ce", imbalance=imbalance)
    write_trial(tmp_path, "mse", imbalance="long_tailed:10")
    (table,) = score_tables(record_of(tmp_path))
    cuts = ["long_tailed:10", "long_tailed:100"]
    assert table.headings[3:] == [f"{score}, {cut}" for score in ("accuracy", "macro F") for cut in cuts]
    (mse,) = [row for row in table.rows if row[0] == "mse"]
    assert [mse[4], mse[6]] == ["no runs", "no runs"]


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ({"epochs": 40}, "Lengths differ: 20 epochs (ce), 40 epochs (mse)."),
        ({"version": "v2"}, "Code versions differ: v1 (ce), v2 (mse)."),
        (
            {"environment": {**ENVIRONMENT, "device": "H200"}},
            "Devices differ: 2 CPU cores (ce), H200 (mse).",
        ),
        ({"data": {"digest": "d2", "subset_digest": "s1"}}, "Data differ: d1 (ce), d2 (mse)."),
        ({"data": {"digest": "d1", "subset_digest": "s2"}}, "Training subsets differ: s1 (ce), s2 (mse)."),
        ({"seed": 2}, "Seeds differ: 1 (ce), 2 (mse)."),
        (
            {"options": ["model.backbone.depth=18", "train_cfg.val_interval=1"]},
            "Options differ: model.backbone.depth=18 (ce), "
            "model.backbone.depth=18 train_cfg.val_interval=1 (mse).",
        ),
    ],
)
def test_what_differs_is_named_under_every_table(tmp_path, changes, note):
    write_trial(tmp_path, "ce")
    record = record_of(tmp_path)
    assert "differ:" not in "".join(
        table.markdown() for table in score_tables(record) + setting_tables(record)
    )
    write_trial(tmp_path, "mse", **changes)
    record = record_of(tmp_path)
    for part in ("scores", "runs", "table1"):
        (table,) = tables_of(record, part)
        assert [one for one in table.notes if "differ:" in one] == [note], part
        assert note in table.markdown()


def test_rows_of_one_loss_are_told_apart(tmp_path):
    write_trial(tmp_path, "ce", epochs=20)
    write_trial(tmp_path, "ce", epochs=40)
    write_trial(tmp_path, "mse", values={"lr": 0.1})
    write_trial(tmp_path, "mse", values={"lr": 1.0})
    (table,) = score_tables(record_of(tmp_path))
    assert {row[0] for row in table.rows} == {"ce, 20 epochs", "ce, 40 epochs", "mse (lr 0.1)", "mse (lr 1)"}


def test_comparison_says_what_few_seeds_allow(tmp_path):
    write_trial(tmp_path, "ce")
    write_trial(tmp_path, "mse").with_name("predictions.npz").unlink()
    (table,) = comparison_tables(record_of(tmp_path))
    assert [row[4:] for row in table.rows] == [["no predictions", "one seed", "1"]] * 2
    assert "*" not in "".join(cell for row in table.rows for cell in row)


def test_settings_say_where_a_value_comes_from_and_what_lies_at_the_border(tmp_path):
    chosen = {"on": "val", "values": {"optim_wrapper.optimizer.lr": 0.3}, "at_border": ["lr"]}
    options = ["optim_wrapper.optimizer.weight_decay=1e-3"]
    write_trial(tmp_path, "ce", chosen=chosen, options=options)
    write_trial(tmp_path, "mse", values={"alpha": 6}, settings={"lr": 0.01, "weight_decay": 5e-4})
    (table,) = setting_tables(record_of(tmp_path))
    columns = [table.headings.index(name) for name in ("learning rate", "weight decay", "other")]
    border = table.headings.index("at the grid's border")
    assert [[row[at] for at in columns] for row in table.rows] == [
        ["0.3", "1e-3", "-"],
        ["0.01", "0.0005", "alpha 6"],
    ]
    assert [row[border] for row in table.rows] == ["lr", "-"]


def test_classes_come_with_their_counts(tmp_path):
    for seed in (1, 2):
        write_trial(tmp_path, "ce", seed)
    record = record_of(tmp_path)
    (table,) = class_tables(record)
    assert table.headings == ["recall in per cent", "cat", "dog", "emu"]
    assert table.rows[0] == ["training samples", "90", "9", "1"]
    recalls = record["runs"][0]["per_class"]["last"]["recall"]["emu"]
    assert table.rows[1][-1] == f"{np.mean(recalls):.1f}"


def test_tuning_has_a_row_for_every_loss_and_further_setting(tmp_path):
    for loss, rate, decay in (("ce", 0.1, 0.0), ("ce", 0.1, 1e-3), ("mse", 0.01, 0.0)):
        write_trial(tmp_path, loss, stage="tune", values={"lr": rate, "wd": decay})
    (table,) = tuning_tables(record_of(tmp_path))
    assert table.headings == ["loss", "with", "epochs", "lr 0.01", "lr 0.1"]
    filled = [[row[0], row[1], bool(row[3]), bool(row[4])] for row in table.rows]
    assert filled == [
        ["ce", "wd 0", False, True],
        ["ce", "wd 0.001", False, True],
        ["mse", "wd 0", True, False],
    ]


def test_losses_without_a_final_run_keep_their_row(tmp_path):
    write_trial(tmp_path, "ce")
    write_trial(tmp_path, "ghmc", stage="tune", diverged="loss is nan")
    for name, stage, loss in (("f1", "final", "dice"), ("f2", "tune", "ce")):
        folder = tmp_path / "trials" / name
        folder.mkdir()
        request = {"stage": stage, "config": CONFIG, "imbalance": "long_tailed:100", "loss": loss, "seed": 1}
        request |= {"epochs": 20, "values": {"lr": 3.0}}
        (folder / "trial.json").write_text(json.dumps(request))
        (folder / "failed.json").write_text('{"reason": "train: out of memory"}')
    record = sweep_record(read_trials([tmp_path]), failed_trials([tmp_path]), resamples=10)
    (table,) = score_tables(record)
    rows = {row[0]: row[3:] for row in table.rows}
    assert list(rows) == ["ce", "ghmc", "dice"]
    assert set(rows["ghmc"] + rows["dice"]) == {"no runs"}
    assert "Failed: dice, seed 1 (train: out of memory)." in table.notes
    (table,) = tuning_tables(record)
    assert [[row[0], *row[2:]] for row in table.rows] == [["ce", "", "failed"], ["ghmc", "diverged", ""]]


def test_the_chosen_point_is_marked_in_the_last_rung(tmp_path):
    for rate, epochs in ((0.1, 5), (1.0, 5), (0.1, 10)):
        write_trial(tmp_path, "ce", stage="tune", values={"lr": rate}, epochs=epochs)
    write_trial(tmp_path, "ce", values={"lr": 0.1})
    (table,) = tuning_tables(record_of(tmp_path))
    marks = {row[1]: [cell.endswith("*") for cell in row[2:]] for row in table.rows}
    assert marks == {"5": [False, False], "10": [True, False]}


def test_the_short_table_has_two_scores(tmp_path):
    write_trial(tmp_path, "ce", best_on_test=1.0)
    write_trial(tmp_path, "mse")
    (table,) = tables_of(record_of(tmp_path), "short")
    assert table.headings[3:] == ["accuracy", "macro F", "Δ accuracy to ce [95 %]"]


def test_a_bar_in_a_cell_stays_in_its_column():
    line = TextTable("", ["loss", "with"], [["a|b", "1"]]).markdown().splitlines()[-1]
    assert line == r"| a\|b | 1 |"


def test_latex_is_escaped_and_every_row_has_all_columns():
    headings = ["loss", "Δ [95 %]"]
    text = TextTable("50 % & more", headings, [["a_b:c={1}", "±~^\\"], ["#$", "1"]], ["Note."]).latex()
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 3
    assert all(len(re.findall(r"(?<!\\)&", row)) == 1 for row in rows)
    assert r"a\_b:c=\{1\} & $\pm$\textasciitilde{}\textasciicircum{}\textbackslash{} \\" in rows
    assert r"\caption{50 \% \& more. Note.}" in text
    assert re.findall(r"\\(\w+rule)", text) == ["toprule", "midrule", "bottomrule"]
