"""Health and identity of the server."""
