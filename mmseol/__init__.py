"""MSE loss with outlying label, and what it is compared with, for MMSegmentation and MMPretrain."""

from mmseol.version import __version__

__all__ = ["__version__"]
