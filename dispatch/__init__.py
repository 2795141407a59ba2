"""Topic in, destination out."""
