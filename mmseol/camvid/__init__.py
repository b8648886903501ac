"""CamVid's classes, files and converters, and made road scenes like it; needs neither torch nor the hosts."""
