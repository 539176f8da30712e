"""`retinue-server doctor`: what a server with the same settings would find here, and what to mend before."""

import os
import platform
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from retinue_server import __version__, exposure
from retinue_server.bundle.remote import RemoteModels, is_remote
from retinue_server.bundle.repository import BundleFolder, listing, scan
from retinue_server.errors import RetinueError, StartupError
from retinue_server.machine import chosen_provider
from retinue_server.rpc.port import PrivateSockets
from retinue_server.runtime import cudart
from retinue_server.runtime.cache import why_unusable
from retinue_server.runtime.memory import control_group_limit_bytes
from retinue_server.runtime.providers import available_cores
from retinue_server.settings import MIB, Settings
from retinue_server.signers import SignerFile
from retinue_server.tls import IdentityFiles
from retinue_server.tokens import TokenFile
from retinue_server.tracing.tracer import Tracer

_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "numpy", "pillow", "grpcio", "protobuf", "uvloop")
# What tells how fast networks of 8 bits are. Source: Linux, arch/x86/include/asm/cpufeatures.h.
_INT8_FLAGS = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})
# A connection each, two for each front-end's channel, and those of models and logs.
_FEW_FILES = 4096
_FEW_MEMORY_BYTES = 1024 * MIB
# A front-end's libraries take about 95 MB.
_FRONT_END_BYTES = 95 * MIB
_DAY_SECONDS = 86400.0
_COLLECTOR_SECONDS = 2.0
_FEW_DAYS = 14
_SHARED_MEMORY = Path("/dev/shm")


class State(StrEnum):
    """Whether something keeps a server from working."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found.

    Attributes:
        state: FAIL where a server would not start, or would serve less than it is told to.
        what: Which part.
        told: What is there, and what to do where that is not good.
    """

    state: State
    what: str
    told: str

    def __str__(self) -> str:
        return f"{self.state:<5} {self.what:<10} {self.told}"


def examine(settings: Settings) -> Iterator[Finding]:
    """Looks at the machine and at what the settings name; starts nothing, and runs no network but a tiny one.

    Args:
        settings: As a server would have them.
    """
    for look in (
        _versions,
        _cores,
        _memory,
        _files,
        _provider,
        _cache,
        _shared_memory,
        _ports,
        _tls,
        _tokens,
        _traces,
        _front_ends,
        _host,
        _signers,
        _models,
    ):
        yield from look(settings)


def _versions(settings: Settings) -> Iterator[Finding]:
    found = []
    for name in _LIBRARIES:
        with suppress(ImportError):
            found.append(f"{name} {version(name)}")
    told = f"retinue-server {__version__}, Python {platform.python_version()}, {', '.join(found)}"
    both = sum(one.startswith("onnxruntime") for one in found) > 1
    if both:
        told += "; onnxruntime and onnxruntime-gpu install the same module: uninstall both, then install one"
    yield Finding(State.FAIL if both else State.OK, "versions", told)


def _cores(settings: Settings) -> Iterator[Finding]:
    cores, all_cores = available_cores(), os.cpu_count() or 1
    told = f"{cores} of {all_cores}" if cores < all_cores else f"{cores}"
    flags = _cpu_flags()
    if flags and not flags & _INT8_FLAGS:
        told += "; no instructions for 8 bits (VNNI): networks of 8 bits are hardly faster than others here"
        yield Finding(State.WARN, "cores", told)
    else:
        yield Finding(State.OK, "cores", told)


def _cpu_flags() -> frozenset[str]:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.partition(":")[2].split())
    return frozenset()


def _memory(settings: Settings) -> Iterator[Finding]:
    total_bytes = psutil.virtual_memory().total
    granted_bytes = control_group_limit_bytes()
    limit_bytes = int(settings.memory_limit) or granted_bytes or total_bytes
    told = f"{total_bytes / MIB:,.0f} MiB"
    if granted_bytes:
        told += f", of which the control group grants {granted_bytes / MIB:,.0f}"
    if settings.memory_limit:
        told += f"; --memory-limit {settings.memory_limit / MIB:,.0f} MiB"
    if not granted_bytes and not settings.memory_limit:
        told += "; models are not bounded: set --memory-limit, so that what does not fit is refused by name"
    left_bytes = limit_bytes - settings.workers * _FRONT_END_BYTES
    few = min(left_bytes, total_bytes) < _FEW_MEMORY_BYTES
    yield Finding(State.WARN if few else State.OK, "memory", told)


def _files(settings: Settings) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= _FEW_FILES:
        yield Finding(State.OK, "files", f"at most {soft:,} open at once")
    else:
        advice = f"raise it with ulimit -n {min(hard, 65536) if hard > 0 else 65536}"
        yield Finding(
            State.WARN, "files", f"at most {soft:,} open at once, and each connection is one; {advice}"
        )


def _provider(settings: Settings) -> Iterator[Finding]:
    try:
        provider = chosen_provider(settings)
    except StartupError as error:
        yield Finding(State.FAIL, "provider", error.message)
        return
    cuda = cudart.load()
    devices = cuda.device_count() if cuda else 0
    told = provider.name
    if provider.on_gpu:
        told += f" on device {', '.join(map(str, provider.devices))} of {devices}"
    if provider.fallback_reason:
        told += f"; no GPU is used: {provider.fallback_reason}"
    # Where there is no GPU, the CPU is no fallback that anybody must hear of.
    wasted = bool(provider.fallback_reason) and (devices > 0 or Path("/dev/nvidia0").exists())
    yield Finding(State.WARN if wasted else State.OK, "provider", told)


def _cache(settings: Settings) -> Iterator[Finding]:
    try:
        folder = settings.expanded_cache_folder
    except StartupError as error:
        yield Finding(State.FAIL, "cache", error.message)
        return
    if why := why_unusable(folder):
        told = f"{folder}: {why}, so nothing is kept between starts; name another with --cache-folder"
        yield Finding(State.WARN, "cache", told)
    else:
        yield Finding(State.OK, "cache", str(folder))


def _shared_memory(settings: Settings) -> Iterator[Finding]:
    if settings.system_shared_memory == "on" and not _SHARED_MEMORY.is_dir():
        told = f"{_SHARED_MEMORY} is not there, which --system-shared-memory on needs; mount a tmpfs there"
        yield Finding(State.FAIL, "shared", told)


def _ports(settings: Settings) -> Iterator[Finding]:
    for flag, port in (("--grpc-port", settings.grpc_port), ("--http-port", settings.http_port)):
        if why := _why_not_free(settings.host, port):
            told = f"{flag} {port} on {settings.host}: {why}; choose another, or stop what has it"
            yield Finding(State.FAIL, "ports", told)
        else:
            yield Finding(State.OK, "ports", f"{flag} {port or 'any'} is free")


def _why_not_free(host: str, port: int) -> str:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
            tried.listen(1)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _tls(settings: Settings) -> Iterator[Finding]:
    try:
        identity = IdentityFiles.of(settings)
    except StartupError as error:
        yield Finding(State.FAIL, "tls", error.message)
        return
    if identity is None:
        return
    days = (identity.current().expires_unix_seconds - time.time()) / _DAY_SECONDS
    told = f"{settings.tls_certificate} is valid for {days:,.0f} days"
    if days < _FEW_DAYS:
        yield Finding(State.WARN, "tls", f"{told}; renew it, and a running server takes the new one up")
    else:
        yield Finding(State.OK, "tls", told)


def _tokens(settings: Settings) -> Iterator[Finding]:
    try:
        found = TokenFile.of(settings)
    except StartupError as error:
        yield Finding(State.FAIL, "tokens", error.message)
        return
    if found is not None:
        yield Finding(State.OK, "tokens", f"{settings.tokens} has {len(found.tokens)}")


def _traces(settings: Settings) -> Iterator[Finding]:
    try:
        tracer = Tracer.of(settings)
    except StartupError as error:
        yield Finding(State.FAIL, "traces", error.message)
        return
    if tracer is None:
        return
    tracer.close(0.0)
    where = urlsplit(settings.trace_endpoint)
    try:
        socket.create_connection((where.hostname or "", where.port or 0), _COLLECTOR_SECONDS).close()
    except (OSError, ValueError) as error:
        told = f"{settings.trace_endpoint} is not reached: {error}; a server answers without it"
        yield Finding(State.WARN, "traces", told)
    else:
        yield Finding(State.OK, "traces", f"{settings.trace_endpoint} is there")


def _front_ends(settings: Settings) -> Iterator[Finding]:
    if not settings.workers:
        return
    try:
        PrivateSockets().close()
    except StartupError as error:
        yield Finding(State.FAIL, "front-ends", error.message)


def _host(settings: Settings) -> Iterator[Finding]:
    if not exposure.is_reached_by_others(settings.host):
        yield Finding(State.OK, "host", f"{settings.host}: only this machine reaches it")
        return
    try:
        exposure.check(settings)
    except StartupError as error:
        yield Finding(State.FAIL, "host", error.message)
        return
    told = exposure.in_the_clear(settings)
    state = State.WARN if told else State.OK
    yield Finding(state, "host", f"{settings.host}: others reach it; {told or 'they must say who they are'}")


def _signers(settings: Settings) -> Iterator[Finding]:
    try:
        found = SignerFile.of(settings)
    except StartupError as error:
        yield Finding(State.FAIL, "signers", error.message)
        return
    if found is not None:
        told = f"{settings.require_signature} has {len(found.current())}; only bundles that they signed are served"
        yield Finding(State.OK, "signers", told)


def _models(settings: Settings) -> Iterator[Finding]:
    if is_remote(settings.models):
        yield from _remote_models(settings)
        return
    models = Path(settings.models)
    signers = None
    # What is wrong with them is told already.
    with suppress(StartupError):
        signers = SignerFile.of(settings)
    try:
        bundles = scan(models, signers.current if signers else None)
        unreadable = listing(models).unreadable
    except StartupError as error:
        yield Finding(State.FAIL, "models", error.message)
        return
    yield from map(_checked, bundles)
    for name, why in unreadable.items():
        yield Finding(State.FAIL, "models", f"{name}: {why.message}")


def _checked(bundle: BundleFolder) -> Finding:
    name = f"{bundle.name}/{bundle.version}"
    try:
        manifest = bundle.read()
    except StartupError as error:
        return Finding(State.FAIL, "models", f"{name}: {error.message}")
    if manifest.HasField("pipeline"):
        return Finding(State.OK, "models", f"{name}: a pipeline of {len(manifest.pipeline.steps)} steps")
    return Finding(State.OK, "models", f"{name}: {bundle.model_path.stat().st_size / MIB:,.1f} MiB")


def _remote_models(settings: Settings) -> Iterator[Finding]:
    try:
        remote = RemoteModels(settings.models, settings.parsed_models_options)
        versions = remote.listing().versions
    except RetinueError as error:
        yield Finding(State.FAIL, "models", error.message)
        return
    told = f"{len(versions)} versions at {remote.shown}"
    yield Finding(State.OK if versions else State.FAIL, "models", told)
