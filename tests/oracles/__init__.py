"""Slow, obvious re-implementations that the fast paths are held against."""
