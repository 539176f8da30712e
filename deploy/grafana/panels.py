"""Kinds of Grafana panels as short calls, and where they stand on the page."""

from typing import Any

Json = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# What a query is limited to: the servers, or the servers' models, that are chosen above the panels.
SERVER = 'instance=~"$instance"'
MODEL = f'{SERVER}, model=~"$model"'

# The server's metrics.
REQUESTS = "retinue_requests_total"
SECONDS = "retinue_request_duration_seconds"
STAGE_SECONDS = "retinue_stage_duration_seconds"
BATCH_SIZE = "retinue_batch_size"
IMAGES = "retinue_images_total"
RECEIVED = "retinue_images_received_total"
BUSY_SECONDS = "retinue_pool_busy_seconds_total"

OK = f'{MODEL}, code="OK"'
# Codes that are the server's fault or overload; the others are the caller's.
FAULTS = f'{MODEL}, code=~"INTERNAL|UNKNOWN|UNAVAILABLE|DATA_LOSS|RESOURCE_EXHAUSTED|DEADLINE_EXCEEDED"'
PERCENTILES = (0.5, 0.95, 0.99)

_COLUMNS = 24


def rate(metric: str, selector: str = MODEL) -> str:
    """The increase a second of a counter."""
    return f"rate({metric}{{{selector}}}[$__rate_interval])"


def quantile(share: float, metric: str, by: str = "", selector: str = MODEL) -> str:
    """A percentile of a histogram, over everything or by some labels."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) ({rate(f'{metric}_bucket', selector)}))"


def utilisation(by: str, selector: str = SERVER) -> str:
    """The share of their time that the threads of pools are busy."""
    threads = f"sum by ({by}) (retinue_pool_threads{{{selector}}})"
    return f"sum by ({by}) ({rate(BUSY_SECONDS, selector)}) / {threads}"


def percentiles(metric: str, selector: str = MODEL) -> list[Json]:
    """A query for each of the usual percentiles."""
    return [
        target(quantile(share, metric, selector=selector), f"p{round(share * 100)}") for share in PERCENTILES
    ]


def target(expression: str, legend: str, **more: object) -> Json:
    """One query of a panel."""
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": expression,
        "legendFormat": legend,
        "range": True,
        **more,
    }


def panel(kind: str, title: str, description: str, unit: str, targets: list[Json], **size: int) -> Json:
    """A panel; `size` is its width and height in grid cells."""
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "gridPos": {"w": size.get("w", 8), "h": size.get("h", 8)},
        "targets": [{"refId": chr(ord("A") + index), **query} for index, query in enumerate(targets)],
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
    }


def stat(title: str, description: str, unit: str, expression: str, w: int = 3, **thresholds: float) -> Json:
    """A single figure; `orange` and `red` are the values from which it has that colour."""
    made = panel("stat", title, description, unit, [target(expression, title)], w=w, h=4)
    steps: list[Json] = [{"color": "green", "value": None}]
    steps += [{"color": color, "value": value} for color, value in thresholds.items()]
    made["fieldConfig"]["defaults"]["thresholds"] = {"mode": "absolute", "steps": steps}
    made["options"] = {
        "colorMode": "value",
        "graphMode": "area",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    return made


def chart(title: str, description: str, unit: str, *targets: Json, stack: bool = False, **size: int) -> Json:
    """Lines over time, with a table of mean, greatest and last value below."""
    made = panel("timeseries", title, description, unit, list(targets), **size)
    made["fieldConfig"]["defaults"]["custom"] = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 30 if stack else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"mode": "normal" if stack else "none", "group": "A"},
    }
    made["options"] = {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "max", "lastNotNull"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return made


def heatmap(title: str, description: str, unit: str, metric: str, selector: str = MODEL, **size: int) -> Json:
    """A histogram over time."""
    query = target(f"sum by (le) ({rate(f'{metric}_bucket', selector)})", "{{le}}", format="heatmap")
    made = panel("heatmap", title, description, unit, [query], **size)
    made["options"] = {
        "calculate": False,
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "yAxis": {"unit": unit},
        "cellGap": 1,
        "tooltip": {"mode": "single", "yHistogram": True},
        "legend": {"show": True},
    }
    return made


def table(
    title: str, description: str, expression: str, columns: list[str], links: Json | None = None, **size: int
) -> Json:
    """The labels of info metrics, a row each; `links` has the address that a column's values lead to, and its title."""
    query = target(expression, "", format="table", instant=True) | {"range": False}
    made = panel("table", title, description, "none", [query], **size)
    hidden = {"Time": True, "Value": True, "__name__": True, "job": True}
    order = {name: index for index, name in enumerate(columns)}
    made["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden, "indexByName": order}}]
    made["options"] = {"showHeader": True, "cellHeight": "sm"}
    made["fieldConfig"]["overrides"] = [
        {
            "matcher": {"id": "byName", "options": column},
            "properties": [{"id": "links", "value": [{"title": name, "url": address}]}],
        }
        for column, (name, address) in (links or {}).items()
    ]
    return made


def lay_out(rows: list[tuple[str, list[Json]]]) -> list[Json]:
    """Places panels left to right and top to bottom under row headings, and numbers them."""
    placed: list[Json] = []
    top = 0
    for heading, panels in rows:
        placed.append(
            {
                "type": "row",
                "title": heading,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": top, "w": _COLUMNS, "h": 1},
            }
        )
        top += 1
        left, height = 0, 0
        for item in panels:
            grid = item["gridPos"]
            if left + grid["w"] > _COLUMNS:
                left, top, height = 0, top + height, 0
            placed.append({**item, "gridPos": {"x": left, "y": top, **grid}})
            left, height = left + grid["w"], max(height, grid["h"])
        top += height
    return [{"id": number, **item} for number, item in enumerate(placed, start=1)]


def variable(name: str, label: str, metric: str, **more: object) -> Json:
    """A choice above the panels, filled with a label's values."""
    query = f"label_values({metric}, {name})"
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "current": {"text": ["All"], "value": ["$__all"]},
        **more,
    }
