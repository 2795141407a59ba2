"""What remembers deliveries, so that a lost acknowledgement is no second one."""
