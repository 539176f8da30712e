"""The report of a job, for people: one HTML page that asks nothing of the network.

The job hands over what it is, what its rows add up to, and its sample.
"""

from retinue_client._score.report.page import REPORT, report, write_report

__all__ = ["REPORT", "report", "write_report"]
