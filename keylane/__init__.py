"""What all sides agree on: events, names, the broker's port and its two adapters."""
