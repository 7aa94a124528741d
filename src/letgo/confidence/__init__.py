"""Confidence: which self-generated texts stand in the way of the learning task."""
