"""Where images to score come from: one module a kind, each of which yields entries in an order that is always the same.

A source holds no list of them in memory, and can be taken up again after any entry. Nothing here knows what is asked
about the images.
"""
