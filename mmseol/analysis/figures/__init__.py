"""Figures: functions that take arrays or records and return a matplotlib figure, in one style."""
