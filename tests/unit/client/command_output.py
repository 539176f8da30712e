"""What the command prints, for tests."""

import json


def lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]
