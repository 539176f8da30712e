"""Scores all images of a folder against a server, into one Parquet file with a row for each.

Only the command line uses it; it needs pyarrow, which the base library does not.
"""
