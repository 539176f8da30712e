"""The containers of the manifests for Kubernetes and KServe, run with podman as a kubelet would run them."""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.containers import START_TIMEOUT_SECONDS, Podman, free_ports, podman_with_image
from tests.kubernetes import documented_secrets, one, read, rendered
from tests.prometheus_process import wait_for
from tests.server_process import ROOT

pytestmark = [pytest.mark.container, pytest.mark.slow]

GROUP_ID = "10001"
USER = f"10001:{GROUP_ID}"


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    return podman_with_image(free_ports(), tmp_path_factory.mktemp("pip"))


@contextmanager
def running(podman: Podman, container: dict[str, Any], mounts: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Name and published HTTP address of a container that runs as a manifest says.

    Args:
        podman: What runs it.
        container: The manifest's container.
        mounts: What lies behind each of its mount paths: a volume's name, or a folder.
    """
    assert container["securityContext"]["readOnlyRootFilesystem"]
    name = podman(
        *("run", "--detach", "--read-only", "--read-only-tmpfs=false", "--user", USER, "--cap-drop=ALL"),
        *("--security-opt=no-new-privileges", "--publish=127.0.0.1::8080", "--no-healthcheck"),
        *(f"--env={entry['name']}={entry['value']}" for entry in container.get("env", [])),
        *(f"--volume={source}:{path}:z" for path, source in mounts.items()),
        container["image"],
        *container.get("args", []),
    )
    try:
        yield name, podman("port", name, "8080")
    finally:
        podman("rm", "--force", "--time", "0", name)


@contextmanager
def empty_folders(podman: Podman, container: dict[str, Any], names: set[str]) -> Iterator[dict[str, str]]:
    """Volumes like a pod's emptyDir with fsGroup, by mount path: root's, of the group, and everybody's to write."""
    image = container["image"]
    made = {}
    try:
        for mount in container["volumeMounts"]:
            if mount["name"] in names:
                volume = podman("volume", "create", f"retinue-pod-{os.getpid()}-{mount['name']}")
                made[mount["mountPath"]] = volume
                shell = ("run", "--rm", "--user=0:0", "--network=none", "--entrypoint=sh")
                podman(
                    *(*shell, f"--volume={volume}:/made", image),
                    *("-ec", f"chgrp {GROUP_ID} /made && chmod 2777 /made"),
                )
        yield made
    finally:
        for volume in made.values():
            podman("volume", "rm", "--force", volume)


def as_mounted(podman: Podman, image: str, folder: Path, content: dict[str, bytes]) -> str:
    """A folder like a secret's volume with fsGroup and defaultMode 0440, through links as the kubelet has it."""
    (folder / "..made").mkdir(parents=True)
    for key, value in content.items():
        (folder / "..made" / key).write_bytes(value)
        (folder / key).symlink_to(f"..data/{key}")
    (folder / "..data").symlink_to("..made")
    shell = ("run", "--rm", "--user=0:0", "--network=none", "--entrypoint=sh", f"--volume={folder}:/made:z")
    change = f"chgrp -R {GROUP_ID} /made && chmod 440 /made/..made/* && chmod 755 /made /made/..made"
    podman(*shell, image, "-ec", change)
    return str(folder)


def is_ready(url: str, **options: Any) -> bool:
    try:
        return httpx.get(f"{url}/readyz", **options).status_code == 200
    except httpx.TransportError:
        return False


def test_the_deployments_pod_becomes_ready_and_shows_its_metrics_to_prometheus(
    podman: Podman, tmp_path: Path
) -> None:
    secrets = documented_secrets(tmp_path)
    pod = one(rendered("cpu"), "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    kept = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    mounted = {
        mount["mountPath"]: as_mounted(
            podman, container["image"], tmp_path / mount["name"], secrets[kept[mount["name"]]]
        )
        for mount in container["volumeMounts"]
        if mount["name"] in kept
    }
    empty = {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume}

    with (
        empty_folders(podman, container, empty) as folders,
        running(podman, container, {**mounted, **folders}) as (name, address),
    ):
        # A kubelet does not look at the certificate.
        wait_for(
            lambda: is_ready(f"https://{address}", verify=False), "the pod to be ready", START_TIMEOUT_SECONDS
        )
        trusted = ssl.create_default_context(cadata=secrets["retinue-tls"]["ca.crt"].decode())
        (endpoint,) = one(rendered("cpu"), "ServiceMonitor")["spec"]["endpoints"]
        token = secrets["retinue-observe"]["token"].decode()
        with httpx.Client(verify=trusted, headers={"authorization": f"Bearer {token}"}) as client:
            metrics = client.get(
                f"https://{address}{endpoint['path']}",
                extensions={"sni_hostname": endpoint["tlsConfig"]["serverName"]},
            )
        assert "retinue_ready 1.0" in metrics.text
        assert podman("exec", name, "ls", "/var/cache/retinue/server/onnxruntime")


def test_kserves_container_serves_the_models_that_kserve_puts_there(podman: Podman) -> None:
    runtime = one(read("kserve/clusterservingruntime.yaml"), "ClusterServingRuntime")["spec"]
    (container,) = runtime["containers"]
    empty = {volume["name"] for volume in runtime["volumes"]}

    with (
        empty_folders(podman, container, empty) as folders,
        running(podman, container, {**folders, "/mnt/models": str(ROOT / "models")}) as (_, address),
    ):
        wait_for(lambda: is_ready(f"http://{address}"), "the predictor to be ready", START_TIMEOUT_SECONDS)
        assert httpx.get(f"http://{address}/v2/models/mobilenet-v2/ready").status_code == 200
