"""Data, models and runs that several test modules use."""
