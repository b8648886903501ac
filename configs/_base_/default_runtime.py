"""Runtime settings of every segmentation run."""

default_scope = "mmseg"
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="SegLocalVisualizer", vis_backends=vis_backends, name="visualizer")
log_processor = dict(by_epoch=True)
log_level = "INFO"
load_from = None
resume = False

default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=10),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="mmseol.WholeCheckpointHook", interval=1, max_keep_ckpts=2, save_best="mIoU", rule="greater"
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
custom_hooks = [
    dict(type="mmseol.ClassCountHook"),
    dict(type="mmseol.NonFiniteLossHook"),
    dict(type="mmseol.UpsampleFreeLossHook"),
    dict(type="mmseol.UpsampleFreePredictionHook"),
    dict(type="mmseol.StopSignalHook"),
    dict(type="mmseol.ExactResumeHook"),
]
