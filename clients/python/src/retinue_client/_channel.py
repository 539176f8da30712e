"""How both clients connect, and what they limit where the caller does not say."""

DEFAULT_TIMEOUT_SECONDS = 60.0
DEFAULT_MAX_REQUEST_IMAGES = 32
DEFAULT_MAX_REQUEST_BYTES = 16 << 20
# One request is computed while the next is read and sent.
REQUESTS_IN_FLIGHT = 2

# Class maps of large images are large, and what may be sent is the server's to say. gRPC's own longest wait
# before it connects again is two minutes, which is longer than a server takes to start.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 2000),
)
