"""The prompts that models are evaluated on, and the metrics of their answers."""
