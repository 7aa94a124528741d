"""The stages of a run, one file per command; none imports another."""
