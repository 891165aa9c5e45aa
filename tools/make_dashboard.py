"""Writes deploy/grafana/mail-proxy.json, or with `--check` says whether it is up to date. `make format` runs it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parent.parent / "deploy" / "grafana" / "mail-proxy.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
TENANTS = 'tenant_id=~"$tenant"'
INSTANCES = 'job="$job"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture. `queries` are (expression, legend)."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    width: int = 8
    kind: str = "timeseries"
    text: str = ""
    stacked: bool = False
    red_from: float | None = None


def _quantiles(name: str, by: str, where: str = INSTANCES) -> tuple[tuple[str, str], ...]:
    legend = f"{{{{{by}}}}} " if by else ""
    group = f"le, {by}" if by else "le"
    return tuple(
        (
            f"histogram_quantile({q}, sum by ({group}) (rate({name}_bucket{{{where}}}[$__rate_interval])))",
            f"{legend}{p}",
        )
        for q, p in ((0.5, "p50"), (0.99, "p99"))
    )


def _rate(name: str, by: str, where: str) -> str:
    return f"sum by ({by}) (rate({name}{{{where}}}[$__rate_interval]))"


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Now",
        (
            Panel("Waiting", ((f"max(gmp_pending_messages{{{INSTANCES}}})", ""),), kind="stat", width=4),
            Panel(
                "Oldest that could go",
                ((f"max(gmp_oldest_waiting_seconds{{{INSTANCES}}})", ""),),
                unit="s",
                kind="stat",
                width=4,
                red_from=300,
            ),
            Panel(
                "Sent a second",
                ((f"sum(rate(gmp_sent_total{{{INSTANCES}, {TENANTS}}}[$__rate_interval]))", ""),),
                kind="stat",
                width=4,
            ),
            Panel(
                "Accounts on hold",
                ((f"max(gmp_accounts_on_hold{{{INSTANCES}}})", ""),),
                kind="stat",
                width=4,
                red_from=1,
            ),
            Panel(
                "Servers left alone",
                ((f"sum(gmp_breakers_open{{{INSTANCES}}})", ""),),
                kind="stat",
                width=4,
                red_from=1,
            ),
            Panel(
                "Reports behind",
                ((f'max(gmp_report_lag_seconds{{{INSTANCES}, state="reporting"}})', ""),),
                unit="s",
                kind="stat",
                width=4,
                red_from=300,
            ),
        ),
    ),
    (
        "Delivery",
        (
            Panel(
                "Outcomes a second",
                (
                    (f"sum(rate(gmp_sent_total{{{INSTANCES}, {TENANTS}}}[$__rate_interval]))", "sent"),
                    (f"sum(rate(gmp_errors_total{{{INSTANCES}, {TENANTS}}}[$__rate_interval]))", "failed"),
                    (f"sum(rate(gmp_deferred_total{{{INSTANCES}, {TENANTS}}}[$__rate_interval]))", "put off"),
                ),
            ),
            Panel(
                "Sent a second, by tenant",
                ((_rate("gmp_sent_total", "tenant_id", f"{INSTANCES}, {TENANTS}"), "{{tenant_id}}"),),
                stacked=True,
            ),
            Panel(
                "Failed a second, by account",
                (
                    (
                        _rate("gmp_errors_total", "tenant_id, account_id", f"{INSTANCES}, {TENANTS}"),
                        "{{tenant_id}}/{{account_id}}",
                    ),
                ),
            ),
            Panel(
                "Time in the queue, by priority",
                _quantiles("gmp_queue_wait_seconds", "priority"),
                unit="s",
                text="From when a message was taken in until its first attempt; not of those with a time of their own.",
            ),
            Panel(
                "Queue",
                (
                    (f"max(gmp_pending_messages{{{INSTANCES}}})", "waiting"),
                    (f"sum(gmp_messages_in_hand{{{INSTANCES}}})", "taken up"),
                ),
            ),
            Panel(
                "Held up by rate limits a second",
                (
                    (
                        _rate("gmp_rate_limited_total", "tenant_id, account_id", f"{INSTANCES}, {TENANTS}"),
                        "{{tenant_id}}/{{account_id}}",
                    ),
                ),
            ),
            Panel(
                "No answer to the final dot, an hour",
                (
                    (
                        f"sum by (tenant_id, account_id) (increase(gmp_uncertain_total{{{INSTANCES}, {TENANTS}}}[1h]))",
                        "{{tenant_id}}/{{account_id}}",
                    ),
                ),
                text="Messages that may arrive twice.",
            ),
            Panel(
                "Held as poison, a day",
                ((f"sum by (tenant_id) (increase(gmp_poison_total{{{INSTANCES}, {TENANTS}}}[1d]))", "{{tenant_id}}"),),
            ),
            Panel(
                "Outages",
                (
                    (f"max(gmp_accounts_on_hold{{{INSTANCES}}})", "accounts on hold"),
                    (f"sum(gmp_breakers_open{{{INSTANCES}}})", "servers left alone"),
                ),
            ),
        ),
    ),
    (
        "Mail servers",
        (
            Panel("Phases of an attempt, half of them", (_quantiles("gmp_smtp_phase_seconds", "phase")[0],), unit="s"),
            Panel("Phases of an attempt, 99 of 100", (_quantiles("gmp_smtp_phase_seconds", "phase")[1],), unit="s"),
            Panel(
                "Open sessions",
                ((f"sum by (instance) (gmp_smtp_sessions{{{INSTANCES}}})", "{{instance}}"),),
                stacked=True,
            ),
        ),
    ),
    (
        "Reports",
        (
            Panel("Reports a second", ((_rate("gmp_reports_total", "outcome", INSTANCES), "{{outcome}}"),)),
            Panel(
                "Events in them a second", ((_rate("gmp_reported_events_total", "outcome", INSTANCES), "{{outcome}}"),)
            ),
            Panel("Time to an answer", _quantiles("gmp_report_seconds", "outcome"), unit="s"),
            Panel(
                "Age of the oldest event",
                ((f"max by (state) (gmp_report_lag_seconds{{{INSTANCES}}})", "{{state}}"),),
                unit="s",
                width=12,
            ),
            Panel(
                "Tenants with events to be told of",
                ((f"max by (state) (gmp_tenants_behind{{{INSTANCES}}})", "{{state}}"),),
                width=12,
            ),
        ),
    ),
    (
        "Attachments",
        (
            Panel(
                "Cache hits a second",
                (
                    (_rate("gmp_attachment_cache_hits_total", "tier", INSTANCES), "{{tier}}"),
                    (f"sum(rate(gmp_attachment_cache_misses_total{{{INSTANCES}}}[$__rate_interval]))", "miss"),
                ),
            ),
            Panel("Cache", ((f"sum by (tier) (gmp_attachment_cache_bytes{{{INSTANCES}}})", "{{tier}}"),), unit="bytes"),
            Panel(
                "Made room for others, a second",
                ((_rate("gmp_attachment_cache_evictions_total", "tier", INSTANCES), "{{tier}}"),),
            ),
            Panel(
                "Bytes not fetched a second",
                ((_rate("gmp_attachment_cache_hit_bytes_total", "tier", INSTANCES), "{{tier}}"),),
                unit="Bps",
                width=12,
            ),
            Panel(
                "Large files a second", ((_rate("gmp_large_files_total", "action", INSTANCES), "{{action}}"),), width=12
            ),
        ),
    ),
    (
        "Instances",
        (
            Panel("Time of a commit", _quantiles("gmp_commit_seconds", "instance"), unit="s"),
            Panel("Writes in a commit", _quantiles("gmp_commit_writes", "instance")),
            Panel("Commits a second", ((_rate("gmp_commit_seconds_count", "instance", INSTANCES), "{{instance}}"),)),
            Panel(
                "Processor",
                (
                    (
                        f"sum by (instance) (rate(process_cpu_seconds_total{{{INSTANCES}}}[$__rate_interval]))",
                        "{{instance}}",
                    ),
                ),
                unit="percentunit",
            ),
            Panel(
                "Memory",
                ((f"sum by (instance) (process_resident_memory_bytes{{{INSTANCES}}})", "{{instance}}"),),
                unit="bytes",
            ),
            Panel("Open files", ((f"sum by (instance) (process_open_fds{{{INSTANCES}}})", "{{instance}}"),)),
            Panel(
                "Flight journal",
                ((f"sum by (instance) (gmp_journal_bytes{{{INSTANCES}}})", "{{instance}}"),),
                unit="bytes",
            ),
            Panel("Up", ((f"max by (instance) (up{{{INSTANCES}}})", "{{instance}}"),)),
            Panel(
                "Versions",
                ((f"count by (version, python) (gmp_build_info{{{INSTANCES}}})", "{{version}}, Python {{python}}"),),
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """Return what Grafana imports."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        panels.append(
            {
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": _at(0, top, WIDTH, 1),
                "id": len(panels) + 1,
            }
        )
        top += 1
        left, height = 0, 4 if row[0].kind == "stat" else 8
        for panel in row:
            if left + panel.width > WIDTH:
                left, top = 0, top + height
            panels.append(_panel(panel, len(panels) + 1, _at(left, top, panel.width, height)))
            left += panel.width
        top += height
    return {
        "uid": "genro-mail-proxy",
        "title": "genro-mail-proxy",
        "tags": ["mail"],
        "timezone": "browser",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
                _variable("job", "Job", "label_values(gmp_build_info, job)", several=False),
                _variable("tenant", "Tenant", 'label_values(gmp_sent_total{job="$job"}, tenant_id)', several=True),
            ]
        },
        "annotations": {"list": []},
        "panels": panels,
    }


def _at(left: int, top: int, width: int, height: int) -> dict[str, int]:
    return {"x": left, "y": top, "w": width, "h": height}


def _variable(name: str, label: str, query: str, *, several: bool) -> dict[str, Any]:
    variable: dict[str, Any] = {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": several,
        "includeAll": several,
    }
    return variable | {"allValue": ".*", "current": {"text": "All", "value": "$__all"}} if several else variable


def _panel(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}}
    options: dict[str, Any]
    if panel.kind == "stat":
        options = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"}
    else:
        mode = "normal" if panel.stacked else "none"
        defaults["custom"] = {"fillOpacity": 10, "showPoints": "never", "stacking": {"mode": mode, "group": "A"}}
        options = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": options,
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": SOURCE, "expr": expression, "legendFormat": legend or "__auto"}
            for n, (expression, legend) in enumerate(panel.queries)
        ],
    }


def main() -> None:
    """Write the file, or look at it."""
    text = json.dumps(dashboard(), indent=2) + "\n"
    if "--check" in sys.argv[1:]:
        sys.exit(FILE.read_text(encoding="utf-8") != text)
    FILE.parent.mkdir(parents=True, exist_ok=True)
    FILE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
