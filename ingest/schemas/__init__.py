"""Schemas of payloads, by event type: JSON Schema, Avro and Protobuf.

Each language is imported only when a file of it is there: together they take 0.1 s.
"""
