"""A Pulsar of one's own: found or fetched, started, watched, stopped for certain."""
