"""How front-end processes and the engine's process work together: messages, shared memory, and both ends' parts.

Images go through shared memory, in slots; what is said about them goes over a socket, in small frames.
"""
