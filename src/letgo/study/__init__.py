"""Does forgetting help? Grids of runs and the statistics of their differences."""
