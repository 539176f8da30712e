"""Scores all images of a source into a folder of files with a row for each.

Only the command line and its workers use it, in processes that do nothing else; it needs pyarrow, which the base
library does not.
"""

from retinue_client._score.memory import keep_little

# No module here that imports pyarrow comes before.
keep_little()
