"""Differences of scores with their intervals, and what outputs estimate."""
