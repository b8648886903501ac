"""Numerics on tensors, without settings and without state."""
