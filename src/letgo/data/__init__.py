"""Data sets: reading and checking records, splitting them, and turning them into token ids."""
