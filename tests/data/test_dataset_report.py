"""The listing of what is wrong in a data set."""

import numpy as np

from owlkit.data.dataset_report import DatasetReport, Finding, Findings


def test_the_listing_counts_all_and_shows_the_first():
    findings = Findings()
    findings.add(Finding.EMPTY, "first")
    findings.add_rows(Finding.EMPTY, np.arange(6) >= 2, "row {}".format)
    findings.add_rows(Finding.EMPTY, np.ones(9, np.bool_), "further {}".format)
    findings.add_rows(Finding.CROWD, np.arange(3) == 1, "row {}".format)
    findings.add_rows(Finding.OUTSIDE, np.zeros(3, np.bool_), "row {}".format)
    report = DatasetReport.of(findings, source="a.json", images=4, boxes=7)
    assert report.counts == {Finding.EMPTY: 14, Finding.CROWD: 1}
    assert report.has_faults
    assert str(report).splitlines() == [
        "a.json: 4 images, 7 boxes",
        "  14 x box of zero or negative size: box dropped",
        "      first",
        "      row 2",
        "      row 3",
        "      and 11 more",
        "  1 x crowd region: no target; see data.crowd",
        "      row 1",
    ]
