"""Records of runs, their tables, pictures of predictions, and baselines."""
