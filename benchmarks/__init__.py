"""What Retinue costs on this machine, each figure beside its roofline measured in the same run.

`make bench` runs every scenario on an otherwise idle machine, prints the tables and writes results/.
"""

import os

# Before anything imports ONNX Runtime: measured as the server runs it.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
