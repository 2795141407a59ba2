"""What a person sees of running workers, and says to them: status, lanes, pause, resume, orders."""
