"""From the name of a data set to checked records, and from records to token ids."""
