"""Per-example gradients, Fisher information, and the forgetting scores made of them."""
