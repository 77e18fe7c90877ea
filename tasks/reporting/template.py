"""Where the template of the report is."""

from pathlib import Path

TEMPLATE = Path(__file__).with_name("report.html.jinja")
