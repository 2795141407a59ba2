"""`keylane dlq`: the dead letters of a destination, looked at, redriven, purged, carried about."""
