"""Fixtures of all tests: the toy data set, the hosts' scopes, a cache of their own."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from mmengine.dataset import BaseDataset
from mmengine.registry import DefaultScope
from mmseg.utils import register_all_modules

from mmseol.camvid.toy import make_toy

register_all_modules(init_default_scope=True)
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put the cache of counts into a temporary folder."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("MMSEOL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _no_stale_copies() -> None:
    """Clear what mmengine 0.10.7 keeps of one ``get_subset`` for the next.

    Its memo of copied objects is a default argument, keyed by addresses; one that is used again, by another
    data set, brings a wrong pipeline.
    """
    (memo,) = BaseDataset._copy_without_annotation.__defaults__
    if memo is not None:
        memo.clear()


@pytest.fixture(scope="module", autouse=True)
def _cheap_garbage() -> None:
    """Keep what was imported out of garbage collections.

    mmengine's data sets collect garbage whenever one is built, which takes a quarter of a second where all
    hosts are imported, longer than most tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _same_state() -> Iterator[None]:
    """Fail if the tests of a file leave signal handlers or modes of torch behind, which later ones meet."""
    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in signals]
    yield
    assert [signal.getsignal(number) for number in signals] == before
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32


@pytest.fixture
def mmseg_scope() -> Iterator[None]:
    """Resolve unscoped names in mmseg's registries, and seed torch."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


@pytest.fixture
def mmpretrain_scope() -> Iterator[None]:
    """Resolve unscoped names in mmpretrain's registries, and seed torch and NumPy."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (mmpretrain's batch augments draw from it)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        yield


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small toy data set: 12/4/4 road scenes of 64x80."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    make_toy(folder, 12, 4, 4, (64, 80), 0)
    return folder
