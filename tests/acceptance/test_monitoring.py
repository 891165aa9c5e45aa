"""What an operator looks at: metrics, alerts and the dashboard, with a Prometheus that scrapes a loaded instance."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import NewInstance
from tests.acceptance.sinks import running_sink
from tests.acceptance.tenants import new_tenant
from tests.docs.pages import ROOT, page
from tests.support.callback_server import CallbackServer
from tests.support.cloud_servers import free_port
from tests.support.instance import Instance, a_message, eventually

FOLDER = Path(sys.prefix) / "operators"
"""Where `tools/operators.sh` leaves the programs, or why there are none."""
RULES = ROOT / "deploy" / "prometheus"
DASHBOARD = ROOT / "deploy" / "grafana" / "mail-proxy.json"


def program(name: str) -> str:
    """Return the path of `prometheus` or `promtool`; fails with the reason where there is none."""
    path = FOLDER / name
    assert path.exists(), (FOLDER / "why-not").read_text() if (FOLDER / "why-not").exists() else f"no {path}"
    return str(path)


def promtool(*arguments: str, given: bytes | None = None) -> str:
    """Run it; it must find nothing to say against what it looks at."""
    done = subprocess.run([program("promtool"), *arguments], input=given, capture_output=True, check=False, cwd=RULES)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def test_the_rules_are_such_and_each_fires_on_what_it_is_for() -> None:
    rules = (RULES / "mail-proxy.rules.yml").read_text(encoding="utf-8")
    alerts = set(re.findall(r"alert: (\w+)", rules))
    promtool("check", "rules", "mail-proxy.rules.yml")
    promtool("test", "rules", "mail-proxy.rules.test.yml")
    promtool("check", "config", "prometheus.yml")
    tried = (RULES / "mail-proxy.rules.test.yml").read_text(encoding="utf-8")
    assert {name for name in alerts if f"alertname: {name}\n        exp_alerts:\n" not in tried} == set()


def test_the_configuration_of_the_page_is_one(tmp_path: Path) -> None:
    (shown,) = (block for block in page("docs/metrics.md").blocks if block.mark == "prometheus.yml")
    (tmp_path / "prometheus.yml").write_text(shown.text, encoding="utf-8")
    shutil.copy(RULES / "mail-proxy.rules.yml", tmp_path)
    assert "1 rule files found" in promtool("check", "config", str(tmp_path / "prometheus.yml"))


def test_the_dashboard_is_the_one_that_is_made() -> None:
    subprocess.run([sys.executable, str(ROOT / "tools" / "make_dashboard.py"), "--check"], check=True)


@contextmanager
def running_prometheus(folder: Path, target: str) -> Iterator[str]:
    """Scrape an instance twice a second; give the address of Prometheus."""
    port = free_port()
    config = folder / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "500ms", "evaluation_interval": "1s"},
                "rule_files": [str(RULES / "mail-proxy.rules.yml")],
                "scrape_configs": [{"job_name": "mail-proxy", "static_configs": [{"targets": [target]}]}],
            }
        )
    )
    command = [program("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


async def _load(instance: Instance) -> None:
    """Have messages sent, refused, put off, limited and reported."""
    async with (
        running_sink() as sink,
        CallbackServer() as endpoint,
        new_tenant(instance, sink.port, callback=endpoint.url, is_default=True) as acme,
    ):
        sink.rcpt = {"no@example.net": "550 5.1.1 no", "later@example.net": "450 later"}.get
        await acme.put_account("limited", sink.port, limit_per_minute=1)
        await acme.client.submit(*(a_message(f"M{n}", f"r{n}@example.net") for n in range(20)))
        await acme.client.submit(a_message("no", "no@example.net"), a_message("later", "later@example.net"))
        await acme.client.submit(*(a_message(f"L{n}", account_id="limited") for n in range(3)))
        await sink.wait_for(21)
        await eventually(lambda: len(endpoint.entries) >= 24, "outcomes are reported")


async def test_no_panel_and_no_alert_asks_for_what_is_not_there(new_instance: NewInstance, tmp_path: Path) -> None:
    instance = new_instance(RETRY_DELAYS="600")
    await instance.start()
    await _load(instance)
    folder = tmp_path / "prometheus"
    folder.mkdir()
    address = instance.address.removeprefix("http://")
    with running_prometheus(folder, address) as prometheus:
        async with httpx.AsyncClient(base_url=prometheus, timeout=20) as client:

            async def ask(expression: str) -> list[dict[str, Any]]:
                answer = await client.get("/api/v1/query", params={"query": expression})
                assert answer.status_code == 200, (expression, answer.text)
                found: list[dict[str, Any]] = answer.json()["data"]["result"]
                return found

            await _until_scraped(client)
            await _load(instance)  # so that counters grow while they are looked at
            await asyncio.sleep(7)  # gauges are counted every 5 s
            empty = [expression for expression in _of_dashboard() if not _numbers(await ask(expression))]
            assert not empty
            absent = [selector for selector in _selectors_of_alerts() if not await ask(selector)]
            assert not absent
            rules = (await client.get("/api/v1/rules")).json()["data"]["groups"][0]["rules"]
            assert {rule["health"] for rule in rules} == {"ok"}, rules
    async with instance.client() as anybody:
        metrics = (await anybody.ask("GET", "/metrics")).content
    promtool("check", "metrics", given=metrics)


async def _until_scraped(client: httpx.AsyncClient) -> None:
    for _ in range(200):
        try:
            answer = await client.get("/api/v1/query", params={"query": 'up{job="mail-proxy"} == 1'})
            if answer.status_code == 200 and answer.json()["data"]["result"]:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.1)
    pytest.fail("nothing was scraped within 20 s")


def _numbers(result: list[dict[str, Any]]) -> list[float]:
    values = [float(series["value"][1]) for series in result]
    return [value for value in values if not math.isnan(value)]


def _of_dashboard() -> Iterator[str]:
    """Every query of the dashboard, as Grafana asks it."""
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            expression: str = target["expr"]
            yield expression.replace("$job", "mail-proxy").replace("$tenant", ".*").replace("$__rate_interval", "30s")


def _selectors_of_alerts() -> Iterator[str]:
    """Every metric that an alert looks at, with its labels but those that only some operators have."""
    text = (RULES / "mail-proxy.rules.yml").read_text(encoding="utf-8")
    text = re.sub(r"(?:annotations:|description:|summary:).*", "", text)
    for name, labels in re.findall(r"\b(up|gmp_\w+)(\{[^}]*\})?", text):
        yield name + ("" if 'account_id="(other)"' in labels else labels)
