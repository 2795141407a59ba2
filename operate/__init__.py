"""What people use to run it: the command line, a local broker, the demo."""
