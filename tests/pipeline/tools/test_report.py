"""The report of a real run folder (tests/eval/test_report.py has the page itself)."""

from eval.report import render_report


def test_a_run_folder_becomes_a_page(finished_run):
    page = render_report([finished_run.dir.read_view()])

    assert "<title>Ladder: mini</title>" in page
    # Plain is scored, the three others are trained too.
    assert page.count('<td class="left">training</td>') == 3
    assert page.count('<td class="left">scoring</td>') == 4
    assert "transformers " in page
