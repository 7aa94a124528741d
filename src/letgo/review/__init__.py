"""Inspect which texts of a run will be unlearned, and change the selection."""
