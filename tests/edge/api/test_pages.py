"""Swagger UI and ReDoc in a real browser: they render, fetch nothing from elsewhere, and forms can be sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.browser import Tab, browser, pixels
from tests.support.instance import ADMIN_TOKEN, Instance


@pytest.fixture
async def instance(tmp_path: Path) -> AsyncIterator[Instance]:
    """The service as it is run, on a port of its own."""
    served = Instance(tmp_path)
    await served.start()
    yield served
    served.close()


@pytest.fixture
async def tab(tmp_path: Path) -> AsyncIterator[Tab]:
    async with browser(tmp_path / "profile") as opened:
        yield opened


async def assert_it_is_a_page(tab: Tab, instance: Instance) -> None:
    """Hold what both pages have to keep: something to see, no host but this one, nothing to complain of."""
    shown = Counter(pixels(await tab.screenshot(0.25)))
    assert len(shown) > 50, shown.most_common(5)
    assert shown.most_common(1)[0][1] < 0.97 * shown.total(), "the page is all but blank"
    assert {each for each in tab.requests if not each.startswith((instance.address, "data:", "blob:"))} == set()
    assert tab.complaints == []


async def execute(tab: Tab, operation: str) -> None:
    """Open an operation and send its form."""
    await tab.evaluate(f"document.querySelector('{operation} .opblock-summary-control').click()")
    # the button is there before the page has worked out what it does; by then its answers are described, too
    await tab.until(f"document.querySelector('{operation} .responses-table') != null")
    await tab.evaluate(f"document.querySelector('{operation} .execute').click()")


async def test_swagger_ui_renders_and_its_form_reaches_the_service(instance: Instance, tab: Tab) -> None:
    await tab.open(f"{instance.address}/docs")
    await tab.until("document.querySelectorAll('.opblock').length > 20")
    assert await tab.evaluate("document.querySelector('.info .title').innerText.includes('genro-mail-proxy')")
    await assert_it_is_a_page(tab, instance)

    # a public route, as whoever reads the page would call it
    await execute(tab, "#operations-service-health")
    answered = "document.querySelector('#operations-service-health .live-responses-table tbody .response-col_status')"
    assert (await tab.until(f"{answered}?.innerText")).startswith("200")

    # and one that needs the token, which the page keeps and sends along
    await tab.evaluate("document.querySelector('.btn.authorize').click()")
    field = "document.querySelector('.auth-container input')"
    await tab.until(f"{field} != null")
    await tab.evaluate(f"{field}.focus()")
    await tab.call("Input.insertText", text=ADMIN_TOKEN)
    await tab.evaluate("document.querySelector('.auth-btn-wrapper .authorize').click()")
    await tab.evaluate("document.querySelector('.btn-done').click()")
    await execute(tab, "#operations-service-status")
    body = "document.querySelector('#operations-service-status .live-responses-table tbody .response-col_description')"
    assert '"scheduler_active": true' in await tab.until(f"{body}?.innerText")
    assert f"{instance.address}/status" in tab.requests
    await assert_it_is_a_page(tab, instance)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_swagger_ui_is_dark_where_dark_is_preferred(instance: Instance, tab: Tab, scheme: str) -> None:
    await tab.open("about:blank")
    await tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    await tab.call("Page.navigate", url=f"{instance.address}/docs")
    await tab.until("document.querySelectorAll('.opblock').length > 20")
    sums = [sum(pixel) for pixel in pixels(await tab.screenshot(0.25))]
    assert (sum(sums) / len(sums) > 384) == (scheme == "light")
    assert f"API={instance.address}\n" in await tab.evaluate("document.querySelector('.info .description').innerText")


async def test_redoc_renders(instance: Instance, tab: Tab) -> None:
    await tab.open(f"{instance.address}/redoc")
    await tab.until("document.querySelectorAll('[data-section-id^=\"tag/\"] h2').length > 20")
    assert await tab.evaluate("document.querySelector('h1').innerText.includes('genro-mail-proxy')")
    await tab.until("document.fonts.status == 'loaded'")
    await assert_it_is_a_page(tab, instance)
