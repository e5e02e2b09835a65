"""Pages to look at labels with: a run's report and the comparison of two runs, each one self-contained HTML file."""

from labeler.review.report import ReportSummary, write_report

__all__ = ["ReportSummary", "write_report"]
