"""The forms that results are written in: one module a form, each of which writes the rows of a part into files.

Nothing here knows where rows come from, or when a part ends.
"""
