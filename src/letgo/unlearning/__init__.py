"""`LWFTrainer`, its settings and its parts; usable without the rest of letgo above it."""
