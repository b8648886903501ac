"""Predict one image and draw the label map over it.

python tools/predict.py CONFIG CHECKPOINT IMAGE --out prediction.png
"""

from argparse import ArgumentParser
from pathlib import Path

import mmcv
from mmengine.config import Config, DictAction
from mmseg.apis import inference_model, init_model
from PIL import Image

from mmseol.analysis.pictures import overlay
from mmseol.utils.files import replacing


def main() -> None:
    """Read the arguments and run."""
    parser = ArgumentParser(description="Predict one image.")
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file")
    parser.add_argument("image", help="image file")
    parser.add_argument("--out", default="prediction.png", help="picture to write (default: prediction.png)")
    parser.add_argument("--opacity", type=float, default=0.5, help="of the label map, 0 to 1 (default: 0.5)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda:0, ...")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    args = parser.parse_args()
    for name in ("config", "checkpoint", "image"):
        if not Path(getattr(args, name)).is_file():
            parser.error(f"`{name}` must be an existing file, got {getattr(args, name)!r}.")
    if Path(args.out).exists():
        parser.error(f"`--out` {args.out!r} exists; name another file or remove it first.")
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    model = init_model(cfg, args.checkpoint, device=args.device)
    result = inference_model(model, args.image)
    label_map = result.pred_sem_seg.data[0].cpu().numpy()
    image = mmcv.imread(args.image, channel_order="rgb")
    with replacing(args.out) as file:
        picture = overlay(image, label_map, model.dataset_meta["palette"], args.opacity)
        Image.fromarray(picture).save(file, format="png")
    print(f"Wrote {args.out}.")


if __name__ == "__main__":
    main()
