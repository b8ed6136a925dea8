"""Records as one HTML page: nothing is loaded from anywhere, and what came from outside is text."""

from effnet_cli.report.bench import bench_page
from effnet_cli.report.evaluation import REPORT_FILE_NAME, evaluation_page, run_page
from effnet_cli.report.gallery import gallery_page

__all__ = ["REPORT_FILE_NAME", "bench_page", "evaluation_page", "gallery_page", "run_page"]
