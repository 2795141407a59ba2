"""`keylane doctor`: whether a broker keeps what Keylane promises, and what mends it if not."""
