"""Writes prometheusrule.yaml, the alerts of deploy/prometheus/alerts.yml as Prometheus' operator takes them.

Usage: make_prometheusrule.py [FILE]
"""

import sys
import textwrap
from pathlib import Path

FOLDER = Path(__file__).parent
ALERTS = FOLDER.parents[1] / "prometheus" / "alerts.yml"
HEAD = """\
# Made by make_prometheusrule.py of deploy/prometheus/alerts.yml, which is the file to change.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: retinue
  labels:
    app.kubernetes.io/name: retinue
spec:
"""

if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER / "prometheusrule.yaml"
    target.write_text(HEAD + textwrap.indent(ALERTS.read_text(), "  "))
