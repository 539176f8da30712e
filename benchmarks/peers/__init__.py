"""Other servers that do the same work, each in its own environment and written as its documentation recommends."""
