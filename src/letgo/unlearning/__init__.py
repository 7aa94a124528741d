"""`LWFTrainer`, its settings, and everything it is made of."""
