"""Curves of each class, pictures of predictions and a report of the run, by name.

A leaf picks hooks and backends with ``_base_ = [LEAF, "../_base_/live.py"]``,
``default_hooks = {{_base_.live_hooks}}`` and
``visualizer = dict(vis_backends=[{{_base_.live_backends.local}}, {{_base_.live_backends.tensorboard}}])``.
``pip install "mmseol[live]"`` brings TensorBoard; WandB and MLflow are installed by their own names.
"""

live_hooks = dict(
    class_scalars=dict(type="mmseol.ClassScalarsHook"),
    prediction_pictures=dict(type="mmseol.PredictionPicturesHook", number=4),
    report=dict(type="mmseol.ReportHook"),
)
live_backends = dict(
    local=dict(type="LocalVisBackend"),
    tensorboard=dict(type="TensorboardVisBackend"),
    wandb=dict(type="WandbVisBackend", init_kwargs=dict(project="mmseol")),
    # MLflow refuses settings with long values and some characters in keys; config.py is stored whole.
    # MLflow 3 also refuses mmengine's default, a folder of files.
    mlflow=dict(
        type="MLflowVisBackend", exp_name="mmseol", tracked_config_keys=[], tracking_uri="sqlite:///mlflow.db"
    ),
)
