"""The printed tables as data, and our runs beside them."""

import json
from pathlib import Path

import pytest
from helpers.sweep_records import write_trial

from mmseol.analysis.records.paper import Column, printed_tables
from mmseol.analysis.records.sweep_record import sweep_record
from mmseol.analysis.records.trial_records import read_trials
from mmseol.analysis.tabulation.paper_comparison import beside_printed, paper_table
from mmseol.experiment import LOSSES
from mmseol.sweeps.sweep_file import find_sweep, read_sweep


def record_of(folder):
    return sweep_record(read_trials([folder]), resamples=10)


@pytest.mark.parametrize(
    ("table", "loss", "column", "printed"),
    [  # read in the paper: corners and middles of its tables
        ("1", "ce", ("cifar10", "long_tailed:5", "accuracy"), (68.78, 0.12)),
        ("1", "outlying_mse", ("cifar10", "step:100", "accuracy"), (44.53, 1.39)),
        ("2", "cdb_ce", ("cifar10", "long_tailed:50", "macro_f1"), (49.75, 2.48)),
        ("3", "ldam", ("cifar100", "step:5", "accuracy"), (28.67, 1.75)),
        ("4", "outlying_mse", ("cifar100", "long_tailed:100", "macro_f1"), (23.24, 0.79)),
        ("5", "focal", ("food101_lt", None, "macro_f1"), (38.02,)),
        ("6", "tversky", ("camvid", None, "mIoU"), (44.10, 0.40)),
        ("7", "outlying_mse:alpha=8", ("camvid", None, "mIoU"), (70.63, 0.79)),
    ],
)
def test_printed_numbers(table, loss, column, printed):
    (row,) = [row for row in printed_tables()[table].rows if row.label == loss]
    assert row.values[Column(*column)] == printed


def test_printed_tables_are_whole_and_name_our_losses():
    tables = printed_tables()
    sizes = {name: (len(table.rows), len(table.columns)) for name, table in tables.items()}
    expected = {"5": (3, 2), "6": (7, 1), "7": (8, 1), "lt": (4, 2)}
    assert sizes == {**dict.fromkeys("1234", (7, 8)), **expected}
    for table in tables.values():
        for row in table.rows:
            assert row.loss in LOSSES
            assert row.values.keys() == set(table.columns)
    alphas = [[row.alpha for row in tables[name].rows if row.loss == "outlying_mse"] for name in "135"]
    assert alphas == [[5], [1], [1]]
    assert [row.alpha for row in tables["7"].rows] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_cells_have_the_difference_and_cells_without_runs_say_so(tmp_path):
    for seed in (1, 2):
        write_trial(tmp_path, "ce", seed, best_on_test=2.0)
    record = record_of(tmp_path)
    (row,) = [row for row in beside_printed(record, "1") if row["loss"] == "ce"]
    (own,) = row["ours"]
    (cell,) = own["cells"].values()
    accuracies = record["runs"][0]["scores"]["last"]["accuracy"]
    assert len(set(accuracies)) == 2
    assert cell["mean"] == pytest.approx(sum(accuracies) / 2, abs=0.005)
    assert cell["difference"] == pytest.approx(cell["mean"] - 44.50, abs=0.01)
    assert (own["network"], own["length"], own["seeds"]) == ("resnet34 (backbone.depth=18)", "20 epochs", "2")
    table = paper_table(record, "1")
    printed, ours, peers = table.rows[:3]
    at = list(table.headings).index("long-tailed 100")
    assert printed[at] == "44.50 ± 0.53"
    assert ours[at].startswith(f"{cell['mean']:.2f} ± ")
    assert ours[at].endswith(f"({cell['difference']:+.2f})")
    assert peers[1] == "ours, best epoch on test, as peers print it"
    assert peers[at].startswith(f"{cell['mean'] + 2:.2f} ± ")
    assert set(ours[7:at] + ours[at + 1 :]) == {"no runs"}
    assert table.rows[4][7:] == ["no runs"] * 8  # focal
    json.dumps(beside_printed(record, "1"), allow_nan=False)


def test_alphas_stand_in_their_own_rows(tmp_path):
    write_trial(tmp_path, "outlying_mse:alpha=2", config="camvid/fastfcn_r18.py", imbalance=None)
    write_trial(tmp_path, "outlying_mse", config="camvid/fastfcn_r18.py", imbalance=None, options=["a=1"])
    write_trial(tmp_path, "outlying_mse:alpha=6", config="camvid/fastfcn_r18.py", imbalance=None)
    record = record_of(tmp_path)
    ours = {row["loss"]: len(row["ours"]) for row in beside_printed(record, "7")}
    assert ours == {f"outlying_mse:alpha={a}": {2: 1, 6: 2}.get(a, 0) for a in range(1, 9)}
    assert len(beside_printed(record, "6")[-1]["ours"]) == 2  # alpha 6, given or the data set's


def test_an_alpha_chosen_on_validation_data_stands_beside_the_papers(tmp_path):
    config = {"config": "camvid/fastfcn_r18.py", "imbalance": None}
    write_trial(tmp_path, "outlying_mse", values={"lr": 0.01, "alpha": 3}, **config)
    write_trial(tmp_path, "outlying_mse:alpha=4", **config)
    record = record_of(tmp_path)
    (own,) = beside_printed(record, "6")[-1]["ours"]
    assert own["chosen"] == "lr 0.01, alpha 3"
    filled = [row["loss"] for row in beside_printed(record, "7") if row["ours"]]
    assert filled == ["outlying_mse:alpha=3", "outlying_mse:alpha=4"]


def test_tuned_weight_decay_and_deferred_weights_have_rows_of_the_literatures_table(tmp_path):
    common = {"config": "cifar/resnet32_cifar100.py", "options": []}
    cut = "long_tailed:100:protocol=cao2019"
    write_trial(tmp_path, "vs", imbalance=cut, values={"lr": 0.1, "wd": 5e-3}, **common)
    write_trial(tmp_path, "vs", imbalance=cut, values={}, **common)
    write_trial(tmp_path, "ldam", imbalance=cut, **common)
    write_trial(tmp_path, "ce", imbalance=cut, config="cifar/resnet34_cifar100.py")
    rows = beside_printed(record_of(tmp_path), "lt")
    networks = {row["loss"]: [own["network"] for own in row["ours"]] for row in rows}
    ours = ["resnet32, protocol=cao2019"]
    assert networks == {"ce": [], "ldam, DRW": [], "vs": ours, "vs, weight decay tuned": ours}
    assert [own["weight_decay"] for row in rows for own in row["ours"]] == ["config's", "0.005"]
    assert rows[-1]["ours"][0]["cells"].keys() == {"cifar100"}


def test_other_splits_are_named(tmp_path):
    write_trial(tmp_path, "dice", config="configs/camvid/fastfcn_r18.py", imbalance=None, split="val")
    table = paper_table(record_of(tmp_path), "6")
    assert any("are not" in note for note in table.notes)
    assert [row[1] for row in table.rows if row[1].startswith("ours (")] == ["ours (val)"]


def test_the_data_lie_beside_their_reader():
    path = Path(__file__).parents[1] / "mmseol" / "analysis" / "records" / "paper_tables.json"
    assert json.loads(path.read_text())["source"] == "arXiv 2107.02393"


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("table1_2_cifar10", "12"),
        ("table3_4_cifar100", "34"),
        ("table5_food101", "5"),
        ("table6_camvid", "6"),
        ("table7_camvid_alpha", "7"),
        ("cifar_lt_resnet32", ["lt"]),
        ("cifar_lt_resnet32_published", ["lt"]),
    ],
)
def test_sweeps_named_after_tables_fill_their_cells(name, tables):
    sweep = read_sweep(find_sweep(f"sweeps/{name}.py"))
    runs = [
        {
            "config": config,
            "imbalance": imbalance,
            "loss": loss,
            "chosen": {"values": dict.fromkeys(sweep.tune, 0.1)},
            "split": sweep.split,
            "epochs": sweep.epochs,
            "seeds": sweep.seeds,
            "options": [],
            "settings": {},
            "scores": {"last": {key: [50.0] for key in ("accuracy", "macro_f1", "mIoU")}, "best_on_test": {}},
        }
        for config in sweep.configs
        for imbalance in sweep.imbalances
        for loss in sweep.losses
    ]
    for table in tables:
        rows = beside_printed({"runs": runs, "checkpoint": "last"}, table)
        filled = {row["loss"] for row in rows if [set(own["cells"]) for own in row["ours"]]}
        columns = {column for row in rows for own in row["ours"] for column in own["cells"]}
        left = {
            "cifar_lt_resnet32": {"ldam, DRW", "vs"},
            "cifar_lt_resnet32_published": {"vs, weight decay tuned"},
        }
        assert {row["loss"] for row in rows} - filled == left.get(name, set())
        assert columns == set(rows[0]["printed"])
    assert len(sweep.seeds) == 3
    assert (sweep.split, sweep.best_on_test) == ("test", tables == ["lt"])
