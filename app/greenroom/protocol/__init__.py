"""The thread event protocol, generation 2: commands and event streams, over HTTP and WebSocket."""
