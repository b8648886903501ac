"""Runtime settings of every classification run."""

_base_ = ["./default_runtime.py"]

default_scope = "mmpretrain"
visualizer = dict(type="UniversalVisualizer")
default_hooks = dict(
    checkpoint=dict(interval=10, save_best="accuracy"),
    visualization=dict(type="VisualizationHook", enable=False),
)
custom_hooks = [
    dict(type="mmseol.ClassCountHook"),
    dict(type="mmseol.NonFiniteLossHook"),
    dict(type="mmseol.TemperatureHook"),
    dict(type="mmseol.StopSignalHook"),
    dict(type="mmseol.ExactResumeHook"),
]
