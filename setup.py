"""Installation of mmseol.

torch and the OpenMMLab packages are extras, so that installing mmseol does not replace those of the user.
OpenCV comes with mmcv.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "mmseol/version.py").read_text()).group(1)

NUMBA = "numba>=0.59"  # on a CPU the softmax losses of upsampled outputs take half the time with it
MMINSTALL = [
    "torch>=2.4",  # the lowest that onedl-mmcv names; before 2.3 torch cannot use NumPy 2, which mmseg needs
    "torchvision>=0.19",
    "onedl-mmengine>=0.10.12",
    "onedl-mmcv>=2.3.6",
    "onedl-mmsegmentation>=1.4.2",
    "onedl-mmpretrain>=1.3.6",
    NUMBA,
]
ANALYSIS = ["jinja2>=3.1", "matplotlib>=3.7", "scikit-learn>=1.3"]
EMBEDDING = ["openTSNE>=1.0", "umap-learn>=0.5.4"]  # else scikit-learn's t-SNE
LIVE = ["tensorboard>=2.14"]
RAY = ["ray>=2.60"]
SLURM = ["submitit>=1.5"]
TEST = [*ANALYSIS, *LIVE, *RAY, *SLURM, NUMBA, "hypothesis>=6.90", "pytest>=7.4"]


class BuildWithConfigs(build_py):
    """Copy ``configs`` and ``tools`` to ``mmseol/.mim`` in the wheel, where OpenMMLab packages have them.

    The records of ``results`` lie beside them; ``mmseol advise`` reads them.
    """

    def run(self) -> None:
        """Build the package; an editable installation finds both folders in the checkout."""
        super().run()
        if not self.editable_mode:
            for folder in ("configs", "tools"):
                target = Path(self.build_lib, "mmseol", ".mim", folder)
                shutil.rmtree(target, ignore_errors=True)
                shutil.copytree(HERE / folder, target, ignore=shutil.ignore_patterns("__pycache__"))
            for record in (HERE / "results").glob("*/record.json"):
                copy = Path(self.build_lib, "mmseol", ".mim", "results", record.parent.name, record.name)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(record, copy)


setup(
    name="mmseol",
    cmdclass={"build_py": BuildWithConfigs},
    version=VERSION,
    description="Losses for imbalanced data in MMSegmentation and MMPretrain, with MSE with outlying label",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["mmseol", "mmseol.*"]),
    package_data={"mmseol": ["py.typed", "analysis/records/*.json", "analysis/reporting/*.jinja"]},
    python_requires=">=3.10",
    install_requires=["numpy>=1.24", "scipy>=1.10", "rich>=13", "pillow>=9.3"],
    extras_require={
        "mminstall": MMINSTALL,
        "analysis": ANALYSIS,
        "embedding": [*ANALYSIS, *EMBEDDING],
        "live": LIVE,
        "ray": RAY,
        "slurm": SLURM,
        "test": TEST,
        "dev": [*TEST, "mypy>=1.10", "pytest-cov>=5.0", "ruff>=0.8"],
    },
)
