"""What runs in a process of its own: load, receiver, and the yardsticks on the bare clients."""
