"""Pages in headless Chromium: opened, with whatever goes wrong in them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS_PX = (390, 1280)
TIMEOUT_MS = 120_000  # the machine may be busy


@contextmanager
def opened(browser: Any, report: Path, width: int) -> Iterator[Any]:
    """The opened page; what it wrote to the console, its errors and requests must be none."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.set_default_timeout(TIMEOUT_MS)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(f"a script ran: {dialog.message}"))
    page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else None)
    page.on(
        "request",
        lambda r: None if r.url.startswith(("data:", "file:")) else wrong.append(r.url),
    )
    page.goto(report.as_uri())
    for chart in page.locator(".chart").all():  # functions to wait for need eval: not allowed
        chart.locator("> *").wait_for(state="attached")
    yield page
    page.close()
    assert wrong == []


def require_no_overflow(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    widths = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert widths[0] <= widths[1]
