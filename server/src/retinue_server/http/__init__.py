"""HTTP: metrics and health, on the event loop that gRPC runs on."""
