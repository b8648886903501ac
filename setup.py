"""Installation of mmseol; the OpenMMLab stack and torch are extras, so that nobody's own are touched.

OpenCV comes with mmcv, in the flavour that the user chose.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "mmseol/version.py").read_text()).group(1)

MMINSTALL = [
    "torch>=2.1",
    "torchvision>=0.16",
    "onedl-mmengine>=0.10.12",
    "onedl-mmcv>=2.3.6",
    "onedl-mmsegmentation>=1.4.2",
    "onedl-mmpretrain>=1.3.6",
]
ANALYSIS = ["matplotlib>=3.7", "scikit-learn>=1.3"]
TEST = [*ANALYSIS, "hypothesis>=6.90", "pytest>=7.4"]

setup(
    name="mmseol",
    version=VERSION,
    description="MSE loss with outlying label and its rivals for MMSegmentation and MMPretrain",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["mmseol", "mmseol.*"]),
    package_data={"mmseol": ["py.typed"]},
    python_requires=">=3.10",
    install_requires=["numpy>=1.23", "scipy>=1.10", "rich>=13", "pillow>=9"],
    extras_require={
        "mminstall": MMINSTALL,
        "analysis": ANALYSIS,
        "test": TEST,
        "dev": [*TEST, "mypy>=1.10", "ruff>=0.8"],
    },
)
