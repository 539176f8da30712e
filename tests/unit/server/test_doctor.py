"""What `retinue-server doctor` finds, and what it says of it."""

import os
import resource
import socket
import tempfile
from pathlib import Path

import pytest
from tests import colour_bundles
from tests.certificates import Authority, Pair
from tests.signers import Signer, write_keys

from retinue_server import doctor
from retinue_server.cli import main
from retinue_server.doctor import Finding, State, examine
from retinue_server.settings import Settings
from retinue_server.tokens import Scope, entry, new_token


def settings(tmp_path: Path, **more: object) -> Settings:
    models = tmp_path / "models"
    if not models.exists():
        colour_bundles.classifier(models)
    given = {"models": str(models), "cache_folder": tmp_path / "cache", "provider": "cpu"}
    return Settings(**{**given, "grpc_port": 0, "http_port": 0, **more})  # type: ignore[arg-type]


def found(settings: Settings, what: str) -> list[Finding]:
    return [finding for finding in examine(settings) if finding.what == what]


def test_a_sound_machine_has_nothing_to_mend(tmp_path: Path) -> None:
    findings = list(examine(settings(tmp_path)))
    assert [finding for finding in findings if finding.state is State.FAIL] == []
    assert {finding.what for finding in findings} >= {
        *("versions", "cores", "memory", "files", "provider", "cache", "ports", "host", "models"),
    }
    (models,) = (finding for finding in findings if finding.what == "models")
    assert models.told.startswith("colour-classifier/1: ")
    assert str(models).startswith("ok    models     ")


def test_bundles_that_do_not_hold_are_named_and_the_others_too(tmp_path: Path) -> None:
    told = settings(tmp_path)
    bundle = colour_bundles.classifier(Path(told.models), "torn", 3)
    (bundle / "model.onnx").write_bytes(b"torn")
    good, bad = found(told, "models")
    assert (good.state, bad.state) == (State.OK, State.FAIL)
    assert bad.told.startswith("torn/3: ")
    assert "sha256" in bad.told
    (missing,) = found(settings(tmp_path, models=str(tmp_path / "nowhere")), "models")
    assert (missing.state, "does not exist" in missing.told) == (State.FAIL, True)


def test_models_elsewhere_are_listed(tmp_path: Path) -> None:
    there = settings(tmp_path)
    address = f"file://{there.models}"
    (finding,) = found(settings(tmp_path, models=address), "models")
    assert (finding.state, finding.told) == (State.OK, f"1 versions at {address}")
    (none,) = found(settings(tmp_path, models=f"file://{tmp_path}/nowhere"), "models")
    assert none.state is State.FAIL


def test_a_port_that_is_taken_fails(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        grpc, http = found(settings(tmp_path, http_port=port), "ports")
    assert (grpc.state, http.state) == (State.OK, State.FAIL)
    assert f"--http-port {port} on 127.0.0.1: Address already in use" in http.told


@pytest.mark.parametrize(
    ("how", "state", "told"),
    [
        ({"host": "127.0.0.1"}, State.OK, "only this machine"),
        ({"host": "localhost"}, State.OK, "only this machine"),
        ({"host": "0.0.0.0"}, State.FAIL, "nothing says who may ask"),
        ({"host": "0.0.0.0", "insecure": True}, State.WARN, "nobody is asked who they are"),
        ({"host": "0.0.0.0", "tokens": "x"}, State.WARN, "tokens and images are not encrypted"),
        ({"host": "0.0.0.0", "tokens": "x", "tls_certificate": "y"}, State.OK, "must say who they are"),
        ({"host": "0.0.0.0", "tls_client_ca": "x"}, State.OK, "must say who they are"),
    ],
)
def test_an_address_that_others_reach_is_told(
    tmp_path: Path, how: dict[str, object], state: State, told: str
) -> None:
    (finding,) = found(settings(tmp_path, **how), "host")
    assert (finding.state, told in finding.told) == (state, True)


def test_a_certificate_that_does_not_hold_or_not_for_long_is_told(tmp_path: Path) -> None:
    authority = Authority()

    def finding(pair: Pair) -> Finding:
        certificate, key = map(str, pair.write(tmp_path))
        (one,) = found(settings(tmp_path, tls_certificate=certificate, tls_key=key), "tls")
        return one

    assert finding(authority.sign(expires_days=30)).state is State.OK
    assert finding(authority.sign(expires_days=3)).state is State.WARN
    expired = finding(authority.sign(expires_days=-0.5))
    assert (expired.state, "expired at" in expired.told) == (State.FAIL, True)
    assert found(settings(tmp_path), "tls") == []


def test_a_collector_of_traces_that_is_away_is_told_and_no_failure(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as collector:
        endpoint = f"http://127.0.0.1:{collector.getsockname()[1]}"
        (there,) = found(settings(tmp_path, trace_endpoint=endpoint), "traces")
    (away,) = found(settings(tmp_path, trace_endpoint=endpoint), "traces")
    assert (there.state, there.told) == (State.OK, f"{endpoint} is there")
    assert (away.state, "Connection refused" in away.told) == (State.WARN, True)
    assert found(settings(tmp_path), "traces") == []


def test_tokens_are_counted_and_those_that_do_not_hold_are_told(tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(entry("ann", new_token(), [Scope.INFER]))
    path.chmod(0o600)
    (tokens,) = found(settings(tmp_path, tokens=str(path)), "tokens")
    assert (tokens.state, tokens.told) == (State.OK, f"{path} has 1")
    path.chmod(0o644)
    (tokens,) = found(settings(tmp_path, tokens=str(path)), "tokens")
    assert (tokens.state, "others may read" in tokens.told) == (State.FAIL, True)


def test_front_ends_need_a_folder_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(settings(tmp_path, workers=2), "front-ends") == []
    deep = tmp_path / ("deep" * 30)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    (finding,) = found(settings(tmp_path, workers=2), "front-ends")
    assert (finding.state, "name a shorter one with TMPDIR" in finding.told) == (State.FAIL, True)
    assert found(settings(tmp_path), "front-ends") == []


def test_a_gpu_that_was_asked_for_and_is_not_there_fails(tmp_path: Path) -> None:
    (finding,) = found(settings(tmp_path, provider="tensorrt"), "provider")
    assert finding.state is State.FAIL
    assert "--provider tensorrt cannot run here" in finding.told


def test_a_cache_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "open to all"
    folder.mkdir()
    folder.chmod(0o777)
    (finding,) = found(settings(tmp_path, cache_folder=folder), "cache")
    assert (finding.state, "others may write to it" in finding.told) == (State.WARN, True)


def test_few_files_and_little_memory_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1024))
    (files,) = found(settings(tmp_path), "files")
    assert (files.state, "ulimit -n 1024" in files.told) == (State.WARN, True)
    (memory,) = found(settings(tmp_path, memory_limit="512MiB"), "memory")
    assert (memory.state, "--memory-limit 512 MiB" in memory.told) == (State.WARN, True)
    (memory,) = found(settings(tmp_path, memory_limit="2GiB", workers=12), "memory")
    assert memory.state is State.WARN


def test_a_processor_without_instructions_for_8_bits_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1000)
    monkeypatch.setattr(doctor, "_cpu_flags", lambda: frozenset({"avx2"}))
    (cores,) = found(settings(tmp_path), "cores")
    assert (cores.state, "of 1000" in cores.told, "VNNI" in cores.told) == (State.WARN, True, True)


def test_the_exit_code_says_whether_a_server_would_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = settings(tmp_path)
    command = ["retinue-server", "doctor", "--models", told.models, "--grpc-port", "0", "--http-port", "0"]
    monkeypatch.setattr("sys.argv", [*command, "--cache-folder", str(tmp_path / "cache")])
    main()
    assert "ok    models     colour-classifier/1" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*command, "--provider", "cuda"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    monkeypatch.setattr("sys.argv", [*command, "--no-such-flag"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2


def test_bundles_that_are_not_signed_are_named_where_they_must_be(tmp_path: Path) -> None:
    signer = Signer()
    keys = write_keys(tmp_path / "keys.pem", signer)
    told = settings(tmp_path, require_signature=str(keys))
    signer.sign(colour_bundles.classifier(Path(told.models), "signed"))
    (signers,) = found(told, "signers")
    assert (signers.state, "keys.pem has 1" in signers.told) == (State.OK, True)
    unsigned, signed = found(told, "models")
    assert (unsigned.state, signed.state) == (State.FAIL, State.OK)
    assert "manifest.sig is missing" in unsigned.told
    keys.write_bytes(signer.private)
    (signers,) = found(told, "signers")
    assert (signers.state, "private key" in signers.told) == (State.FAIL, True)
    assert found(settings(tmp_path), "signers") == []
