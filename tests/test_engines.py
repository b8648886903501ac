"""Engines by name, and the slots of the local one."""

from __future__ import annotations

import os

import pytest

from mmseol.sweeps.engines import LocalEngine, make_engine


@pytest.mark.parametrize(("visible", "gpus"), [("", []), ("2,3", ["2", "3"])])
def test_a_slot_per_visible_gpu(monkeypatch, visible, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    engine = LocalEngine()
    assert engine.gpus == gpus
    assert (engine.slots, engine.threads) == ((2, 3) if gpus else (6, 1))
    assert LocalEngine(slots=3).threads == 2
    assert LocalEngine(slots=8).threads == 1


def test_starting_the_server_leaves_the_environment_as_it_was(monkeypatch):
    started = []
    monkeypatch.setattr("multiprocessing.forkserver.ensure_running", lambda: started.append(dict(os.environ)))
    monkeypatch.setattr("multiprocessing.set_forkserver_preload", lambda names: started.append(names))
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = dict(os.environ)
    LocalEngine(slots=1, preload=["mmseg.models"], threads=2)._start_server()
    names, environment = started
    assert names[-1] == "mmseg.models"
    assert environment["OMP_NUM_THREADS"] == "2"
    assert dict(os.environ) == before


@pytest.mark.parametrize(("options", "message"), [({"slot": 2}, "Did you mean `slots`"), ({"gpu": 1}, "gpu")])
def test_unknown_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make_engine("local", None, (), options)
