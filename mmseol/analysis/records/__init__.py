"""Records of runs and sweeps, and the printed numbers that they are compared with."""
