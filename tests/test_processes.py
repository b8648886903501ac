"""Command lines in processes: logs, failures, interruptions, memory."""

import _thread
import os
import signal
import threading
from pathlib import Path

import pytest

from mmseol.utils.processes import LoggedProcess, run_side_by_side


def test_output_goes_to_the_logs(tmp_path, capsys):
    logs = {name: tmp_path / name / "run.log" for name in "ab"}
    run_side_by_side({log: ("-c", f"print('{name} done')") for name, log in logs.items()})
    assert [log.read_text() for log in logs.values()] == ["a done\n", "b done\n"]
    assert "$ python -c" in capsys.readouterr().out


@pytest.mark.parametrize("order", ["failing first", "failing last"])
def test_a_failure_ends_all_and_shows_its_log(tmp_path, order):
    pid = tmp_path / "pid"
    slow = f"""
import os, pathlib, time
pathlib.Path({str(pid)!r} + ".part").write_text(str(os.getpid()))
os.rename({str(pid)!r} + ".part", {str(pid)!r})
time.sleep(600)
"""
    bad = f"""
import os, time
while not os.path.exists({str(pid)!r}):
    time.sleep(0.05)
raise OSError("no such thing")
"""
    commands = {
        tmp_path / "bad.log": ("-c", bad),
        tmp_path / "slow.log": ("-c", slow),
    }
    if order == "failing last":
        commands = dict(reversed(commands.items()))
    with pytest.raises(SystemExit, match=r"no such thing[\s\S]*failed; see .*bad\.log"):
        run_side_by_side(commands)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_threads_are_divided(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    show = ("-c", "import os; print(os.environ['OMP_NUM_THREADS'])")
    run_side_by_side({tmp_path / name: show for name in "abc"})
    assert (tmp_path / "a").read_text() == "2\n"


@pytest.fixture
def _heeds_interrupts():
    """Raise KeyboardInterrupt at SIGINT, also where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_interrupts")
def test_interrupted_waiting_stops_the_process(tmp_path):
    process = LoggedProcess(("-c", "import time; time.sleep(600)"), tmp_path / "log")
    threading.Timer(0.3, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        process.wait()
    assert process.poll() not in (None, 0)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_memory_is_that_of_the_process(tmp_path):
    """100 MB in the child are seen; what this process holds is not."""
    ready = tmp_path / "ready"
    source = f"import time; block = bytearray(b'x') * 100_000_000; open({str(ready)!r}, 'w'); time.sleep(600)"
    process = LoggedProcess(("-c", source), tmp_path / "log")
    waiting = threading.Event()
    while not ready.exists():
        waiting.wait(0.05)
    assert process.poll() is None
    process.stop()
    assert process.memory is not None
    assert 0.1 < process.memory < 0.2
