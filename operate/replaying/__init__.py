"""`keylane replay`: events that the topic still keeps, delivered to one destination once more."""
