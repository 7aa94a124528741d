"""Unlearning: when it happens, and what keeps it from blowing up."""
