"""The manifests of deploy/kubernetes as kubectl renders them, and the published schemas that they are held against."""

import base64
import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from referencing import Registry, Resource

from tests.server_process import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
# The oldest that has all that is used (preStop.sleep), and the newest that is known.
VERSIONS = ("1.30", "1.37")
_SCHEMAS = ROOT / "tests" / "unit" / "deploy" / "schemas"
_DEFINITIONS = f"kubernetes-json-schema/v{VERSIONS[-1]}.0-local-strict/_definitions.json"

Manifest = dict[str, Any]


def kubectl(*arguments: str) -> str:
    """Runs the pinned kubectl, which needs no cluster for this, and returns its standard output."""
    return _shell(f"kubectl {shlex.join(arguments)}", ROOT)


@cache
def rendered(overlay: str) -> list[Manifest]:
    """What `kubectl apply -k` would apply of a folder of deploy/kubernetes."""
    return list(yaml.safe_load_all(kubectl("kustomize", str(FOLDER / overlay))))


def read(name: str) -> list[Manifest]:
    """The manifests of one file of deploy/kubernetes."""
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


def one(manifests: list[Manifest], kind: str, name: str = "retinue") -> Manifest:
    """The manifest of this kind and name."""
    (found,) = (each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def check(manifest: Manifest) -> None:
    """Holds a manifest against the schema of its kind.

    Raises:
        jsonschema.ValidationError: It has an unknown field, lacks one, or one is of the wrong type.
    """
    own = _SCHEMAS / f"{manifest['kind']}.json"
    if own.exists():
        jsonschema.Draft202012Validator(json.loads(own.read_text()), registry=_registry()).validate(manifest)
        return
    for version in VERSIONS:
        used = kubernetes_validate.validate(manifest, version, strict=True)
        assert used == version


def documented_secrets(folder: Path) -> dict[str, dict[str, bytes]]:
    """What the guide's commands make in a folder: the content of each key of each secret, by name."""
    guide = (ROOT / "deploy" / "README.md").read_text().replace("\\\n", "")
    (making,) = re.findall(r"^(sh deploy/make-credentials .*)$", guide, re.MULTILINE)
    _shell(making.replace("deploy", str(ROOT / "deploy"), 1), folder)
    made = {}
    for command in re.findall(r"^kubectl -n retinue create secret .*$", guide, re.MULTILINE):
        secret = yaml.safe_load(_shell(f"{command} --dry-run=client --output=yaml", folder))
        check(secret)
        content = {key: base64.b64decode(value) for key, value in secret["data"].items()}
        made[secret["metadata"]["name"]] = content
    return made


def _shell(command: str, folder: Path) -> str:
    """Runs a command line with the programs of this environment, and returns its standard output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@cache
def _registry() -> Registry[Any]:
    content = json.loads((files(kubernetes_validate) / _DEFINITIONS).read_text())
    return Registry[Any]().with_resource(content["$id"], Resource.from_contents(content))
