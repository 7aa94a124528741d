"""Tasks that letgo adds to lm-evaluation-harness."""
