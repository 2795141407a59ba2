"""Where events go: one module a kind, behind one protocol."""
