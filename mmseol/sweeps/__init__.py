"""Sweeps: every loss tunes by the same budget on validation data, then several seeds are scored once.

A sweep is a file (:mod:`mmseol.sweeps.sweep_file`), a trial is one training in a folder and a process of its
own (:mod:`mmseol.sweeps.trial`), and the file system is the only state that drivers and engines share.
"""
