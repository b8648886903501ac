"""Tune and train every loss of a sweep file by the same budget; the same as ``python -m mmseol sweep``.

python tools/sweep.py configs/sweeps/digits.py --work-dir work_dirs/digits --slots 2
python tools/sweep.py status work_dirs/digits
python tools/sweep.py configs/sweeps/digits.py --work-dir work_dirs/digits --keep-every 10 --any-version

The last line trains the chosen points again and keeps their last, their best and every tenth checkpoint, for
``tools/analyze.py`` and ``tools/tune_decision.py``; finished tuning trials are not repeated.

Engines; ``help(mmseol.sweeps.ray_engine.RayEngine)`` and those of ``LocalEngine`` and ``SlurmEngine`` list
what ``--engine-options`` takes:

local   processes on this machine, ``--slots`` at a time; the default
ray     tasks on a Ray cluster, whose nodes share the file system of ``--work-dir`` and of the data. Trials
        end with this command; killed workers and nodes give theirs back.
            pip install "mmseol[ray]"
            python tools/sweep.py FILE --engine ray --address HEAD:6379 --engine-options gpus_per_trial=0.5
slurm   jobs, saved and requeued before their time limit and when they are preempted. Jobs outlive a killed
        command, and the next one takes them over.
            pip install "mmseol[slurm]"
            python tools/sweep.py FILE --engine slurm --slots 32 --engine-options partition=gpu time=4:00:00 \
                gpus_per_trial=1 cpus_per_trial=8 "options=--account=vision --constraint=a100"

Several commands, also with different engines, may work on one folder: the file system is all they share.
``processes_per_trial = 4`` in the sweep file trains with four processes of PyTorch's launcher; the engine
gives GPUs for them by ``gpus_per_trial=4``.
"""

from mmseol.__main__ import main

if __name__ == "__main__":
    main("sweep")
