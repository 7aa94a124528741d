"""From a name to a model, and from a batch to losses and answers."""
