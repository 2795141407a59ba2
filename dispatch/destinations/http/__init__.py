"""How a webhook is called: the request, the wire, and what an answer comes to."""
