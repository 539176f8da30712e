"""gRPC: translates protobuf to the domain and back, and errors to statuses. Nothing else knows the wire's types."""
