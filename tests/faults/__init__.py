"""Kills, damaged files and fuzzed input: what letgo makes of them."""
