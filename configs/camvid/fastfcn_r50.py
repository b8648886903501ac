"""Table 6 of arXiv 2107.02393: CamVid, FastFCN-R50, crop 320, batch 16, 200 epochs, poly 0.9.

Expected on the test split: mean IoU 72.69 +- 0.19 with outlying MSE, alpha 6 (as printed there; three seeds).
The paper does not state weight decay (5e-4), depth, context, auxiliary head and initial weights (ImageNet);
they are our choice. Validation data choose the best epoch:

    python tools/train.py configs/camvid/fastfcn_r50.py --loss outlying_mse:alpha=6 --seed 1 --data-root DIR
    python tools/test.py configs/camvid/fastfcn_r50.py CHECKPOINT --split test --data-root DIR
"""

_base_ = [
    "../_base_/datasets/camvid.py",
    "../_base_/models/fastfcn_r50.py",
    "../_base_/schedules/poly_200e.py",
    "../_base_/default_runtime.py",
]

head = dict(num_classes={{_base_.num_classes}}, loss_decode={{_base_.losses.outlying_mse}})
model = dict(
    data_preprocessor=dict(size={{_base_.crop_size}}),
    decode_head=head,
    auxiliary_head=head,
)
del head
