"""Events on their way to clients: encoded in the worker, relayed and replayed by the web."""
