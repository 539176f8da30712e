"""Measures a running server: requests in closed or open loop, and what became of every one of them.

Only the command line uses it. Processes of their own send (`worker`), so that what is shown meanwhile does not slow
them down.
"""
