"""The documentation as a site: built without a warning, read without a network, on a screen and on a phone."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typing_extensions import override

from tests.docs.pages import ROOT, pages
from tests.support.browser import browser

SHOWN = ("index.html", "getting-started.html", "operations.html", "performance.html", "adr/0040-where-speed-ends.html")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it: a warning would fail it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return folder


class _Quiet(SimpleHTTPRequestHandler):
    @override
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """The address of the site on a web server of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_every_page_is_in_it(site: Path) -> None:
    made = {file.relative_to(site).with_suffix(".md").as_posix() for file in site.rglob("*.html")}
    wanted = {page.name.removeprefix("docs/") for page in pages()} - {"README.md"}
    assert wanted - made == set()


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        fetched = re.findall(r'<(?:script|img|iframe)[^>]+src="(https?:[^"]+)', text)
        fetched += re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect|icon)"[^>]+href="(https?:[^"]+)', text)
        assert fetched == [], file


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_pages_can_be_read(served: str, tmp_path: Path, width: int, scheme: str) -> None:
    async with browser(tmp_path / "profile") as tab:
        await tab.open("about:blank")
        mobile = width < 600
        await tab.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=mobile
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await tab.call("Emulation.setEmulatedMedia", features=features)
        for name in SHOWN:
            await tab.call("Page.navigate", url=f"{served}/{name}")
            await tab.until(f"document.readyState === 'complete' && location.href.endsWith('{name}')")
            assert await tab.evaluate("document.querySelector('article h1').textContent.length > 3"), name
            assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is too wide"
            background = await tab.evaluate("getComputedStyle(document.body).backgroundColor")
            light = sum(int(part) for part in re.findall(r"\d+", background)[:3]) > 384
            assert light == (scheme == "light"), f"{name}: {background}"
            pictures = "[...document.querySelectorAll('article img')].every(each => each.naturalWidth > 100)"
            assert await tab.evaluate(pictures), name
        assert tab.complaints == []
        ours = (served, "about:", "data:", "blob:")
        assert [address for address in tab.requests if not address.startswith(ours)] == []


@pytest.mark.parametrize("width", [1280, 390])
async def test_names_stay_whole_and_what_is_wide_scrolls(served: str, tmp_path: Path, width: int) -> None:
    async with browser(tmp_path / "profile") as tab:
        await tab.open("about:blank")
        mobile = width < 600
        await tab.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=mobile
        )
        for name in ("metrics.html", "settings.html", "operations.html", "performance.html"):
            await tab.call("Page.navigate", url=f"{served}/{name}")
            await tab.until(f"document.readyState === 'complete' && location.href.endsWith('{name}')")
            await tab.until("document.querySelector('.md-typeset__scrollwrap') != null")
            broken = await tab.evaluate(
                "[...document.querySelectorAll('td:first-child code')]"
                ".filter(each => each.getClientRects().length > 1).map(each => each.textContent)"
            )
            assert broken == [], name
            assert await tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is too wide"
        narrow = "[...document.querySelectorAll('article img')].filter(each => each.clientWidth < 600).length"
        assert await tab.evaluate(narrow) == 0


def test_a_path_that_leads_out_of_the_site_is_code(site: Path) -> None:
    text = (site / "metrics.html").read_text(encoding="utf-8")
    for path in ("deploy/prometheus", "deploy/grafana/mail-proxy.json"):
        assert f"<code>{path}</code>" in text


async def test_it_can_be_searched(served: str, tmp_path: Path) -> None:
    async with browser(tmp_path / "profile") as tab:
        await tab.open(f"{served}/index.html?q=poison")
        found = await tab.until("[...document.querySelectorAll('.md-search-result__link')].map(a => a.href).join(' ')")
        assert "concepts.html" in found
