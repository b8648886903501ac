"""Losses on raw outputs, one base, one contract; importable without any host."""
