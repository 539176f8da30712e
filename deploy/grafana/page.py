"""A dashboard as Grafana reads it: its panels, the choices above them, and the way to the other dashboards."""

from panels import DATASOURCE, SERVER, Json, lay_out, variable

Rows = list[tuple[str, list[Json]]]

_TAG = "retinue"


def dashboard(uid: str, title: str, description: str, rows: Rows, *, of_one_model: bool = False) -> Json:
    """A dashboard; `of_one_model` has one model chosen instead of any number."""
    # All is any value and none: calls for a model that is not served have none.
    how_many = {"multi": False, "includeAll": False, "current": {}} if of_one_model else {"allValue": ".*"}
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [_TAG],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "title": "Retinue",
                "tags": [_TAG],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
                "targetBlank": False,
                "icon": "dashboard",
            }
        ],
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                },
                variable("instance", "Server", "retinue_build_info"),
                variable("model", "Model", "retinue_model_info", **how_many),
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "Server started",
                    "enable": True,
                    "iconColor": "blue",
                    "datasource": DATASOURCE,
                    "expr": f"process_start_time_seconds{{{SERVER}}} * 1000",
                    "useValueForTime": True,
                    "titleFormat": "{{instance}} started",
                    "step": "60s",
                }
            ]
        },
        "panels": lay_out(rows),
    }
