"""Pages in a real headless browser, where one is installed: no error, no request, everything drawn."""

import re
import shutil
import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pandas as pd
import pytest

from utils.evaluation.plots import figure
from utils.explain.report import Bars, Picture, Section, Table, write_page

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
# Where the browser itself asks for the time and the like.
BROWSERS_OWN = (".google.com", ".googleapis.com", ".gstatic.com")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome is installed")


@pytest.fixture
def browse(tmp_path):
    """Opens a page; returns its DOM, what the console said, and the requests that would have left the machine."""
    asked = []

    class Everywhere(BaseHTTPRequestHandler):
        def do_GET(self):
            if not self.headers["Host"].endswith(BROWSERS_OWN):
                asked.append(self.headers["Host"] + self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Everywhere)
    Thread(target=server.serve_forever, daemon=True).start()

    def opened(page):
        asked.clear()
        found = subprocess.run(
            [
                *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
                *(
                    "--enable-logging=stderr",
                    "--virtual-time-budget=3000",
                    f"--user-data-dir={tmp_path / 'user'}",
                ),
                f"--host-resolver-rules=MAP * 127.0.0.1:{server.server_port}",
                *("--dump-dom", page.as_uri()),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return found.stdout, re.findall(r"CONSOLE.*", found.stderr), list(asked)

    yield opened
    server.shutdown()


# Run by the page itself once it is drawn: how large the pictures are, and whether bars have a place.
MEASURE = """<script>addEventListener("load", () => {
  const sizes = [...document.images].map(image => image.naturalWidth);
  const bars = [...document.querySelectorAll("rect")].map(bar => Math.round(bar.getBoundingClientRect().width));
  document.body.dataset.measured = JSON.stringify([sizes, bars, document.documentElement.scrollWidth <= innerWidth]);
})</script></body>"""


def test_a_page_is_drawn_without_errors_and_without_network(tmp_path, browse):
    with figure(tmp_path / "a.png", 2, 2) as drawing:
        drawing.subplots().plot([0, 1])
    section = Section("Numbers", [Table(["name"], [[0.5]])], [Picture(tmp_path / "a.png", "a figure")])
    section.charts.append(Bars({"pathways": pd.Series({"A": 2.0, "a long name of a pathway": -1.0})}, "bars"))
    page = tmp_path / "page.html"
    write_page(page, "Title & more", ["about"], [section])
    page.write_text(page.read_text().replace("</body>", MEASURE))
    dom, console, requests = browse(page)
    assert "<h1>Title &amp; more</h1>" in dom
    assert (console, requests) == ([], [])
    assert 'data-measured="[[400],[90,45],true]"' in dom
    # And what is wrong with a page would be seen.
    page.write_text('<body><img src="http://example.org/a.png"><script>nothing()</script></body>')
    _, console, requests = browse(page)
    assert "nothing is not defined" in console[0] and requests == ["example.org/a.png"]
