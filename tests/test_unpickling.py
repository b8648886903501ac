"""Checkpoints are read as tensors and plain data: mmengine's load, code in them does not run."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.payload import Payload
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from mmseol.utils.unpickling import load_checkpoint, plain_data_only


class Call:
    """An object that calls ``function(*arguments)`` when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("new_format", [True, False])
def test_what_mmengine_saves_is_read(tmp_path: Path, new_format: bool) -> None:
    history = HistoryBuffer()
    history.update(2.0)
    checkpoint = {
        "state_dict": OrderedDict(
            a=torch.ones(2), b=torch.zeros(3).half(), c=torch.nn.Parameter(torch.ones(1))
        ),
        "message_hub": {"log_scalars": {"loss": history}, "score": np.float64(3.5), "counts": np.arange(3)},
        "meta": {"size": torch.Size([2]), "dtype": torch.bfloat16, "names": {"a", "b"}, "none": None},
    }
    path = tmp_path / "a.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=new_format)
    loaded = load_checkpoint(path)
    assert list(loaded["state_dict"]) == ["a", "b", "c"]
    assert torch.equal(loaded["state_dict"]["b"], checkpoint["state_dict"]["b"])
    assert loaded["message_hub"]["log_scalars"]["loss"].current() == 2
    assert loaded["message_hub"]["counts"].tolist() == [0, 1, 2]
    assert loaded["message_hub"]["score"] == 3.5
    assert loaded["meta"] == checkpoint["meta"]


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("attack", ["function", "getattr", "statistics", "nested"])
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, attack: str, new_format: bool) -> None:
    planted = tmp_path / "planted"
    thing = {
        "function": Payload(planted),
        "getattr": Call(getattr, torch._utils._rebuild_tensor_v2, "__globals__"),
        "statistics": Call(getattr, HistoryBuffer, "register_statistics"),
        "nested": Call(OrderedDict, [("a", Payload(planted))]),
    }[attack]
    torch.save(
        {"state_dict": {}, "meta": {"x": thing}},
        tmp_path / "a.pth",
        _use_new_zipfile_serialization=new_format,
    )
    with pytest.raises(
        ValueError, match=r"must be tensors and plain data, got .* in '.*a.pth'.*--unsafe-load"
    ):
        load_checkpoint(tmp_path / "a.pth")
    with plain_data_only(), pytest.raises(ValueError, match="--unsafe-load"):
        CheckpointLoader.load_checkpoint(str(tmp_path / "a.pth"), map_location="cpu")  # the host's
    assert not planted.exists()
    if attack == "function":
        load_checkpoint(tmp_path / "a.pth", unsafe=True)
        assert planted.exists()


def test_the_loader_of_torch_comes_back() -> None:
    before = torch.load
    with plain_data_only():
        assert torch.load is not before
    with pytest.raises(ZeroDivisionError), plain_data_only():
        1 / 0  # noqa: B018
    with plain_data_only(unsafe=True):
        assert torch.load is before
    assert torch.load is before


def test_files_that_are_no_checkpoints_are_named(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    for name, wrong in (("empty", b""), ("half", content[: len(content) // 2]), ("text", b"no pickle")):
        (tmp_path / name).write_bytes(wrong)
        with pytest.raises(ValueError, match=f"`checkpoint` '.*{name}' cannot be read: "):
            load_checkpoint(tmp_path / name)
    torch.save(torch.zeros(1), tmp_path / "tensor")
    with pytest.raises(ValueError, match="must be a file with a dict, got Tensor"):
        load_checkpoint(tmp_path / "tensor")
    torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "program")
    with pytest.raises(ValueError, match="got a program in"):
        load_checkpoint(tmp_path / "program")
    with pytest.raises(FileNotFoundError, match="`checkpoint` must be an existing file"):
        load_checkpoint(tmp_path / "none")
