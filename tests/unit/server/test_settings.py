import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trying
from hypothesis import strategies as st
from pydantic import ValidationError

from retinue_server.errors import StartupError
from retinue_server.settings import Settings


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in Settings.model_fields:
        monkeypatch.delenv(f"RETINUE_{field.upper()}", raising=False)


def test_the_defaults_serve_the_models_folder_on_this_machine_only() -> None:
    settings = Settings.resolve([])
    assert (settings.host, settings.grpc_port, settings.http_port) == ("127.0.0.1", 8001, 8080)
    assert settings.models == "models"
    assert settings.provider == "auto"


def test_flags_win_over_the_environment_and_the_environment_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "retinue.toml"
    path.write_text("grpc_port = 1\nhttp_port = 1\nmax_queue_images = 1\n")
    monkeypatch.setenv("RETINUE_GRPC_PORT", "2")
    monkeypatch.setenv("RETINUE_HTTP_PORT", "2")
    settings = Settings.resolve(["--config", str(path), "--grpc-port", "3"])
    assert (settings.grpc_port, settings.http_port, settings.max_queue_images) == (3, 2, 1)
    assert settings.max_images_per_request == Settings.model_fields["max_images_per_request"].default


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "retinue.toml"
    path.write_text("host = '0.0.0.0'\n")
    monkeypatch.setenv("RETINUE_CONFIG", str(path))
    assert Settings.resolve([]).host == "0.0.0.0"


def test_a_switch_can_come_from_flag_environment_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings.resolve([]).insecure is False
    assert Settings.resolve(["--insecure"]).insecure is True
    path = tmp_path / "retinue.toml"
    path.write_text("insecure = true\n")
    assert Settings.resolve(["--config", str(path)]).insecure is True
    monkeypatch.setenv("RETINUE_INSECURE", "true")
    assert Settings.resolve([]).insecure is True


@pytest.mark.parametrize(
    "name", sorted(Settings.model_fields.keys() - {"config", "print_config", "insecure"})
)
def test_every_setting_can_come_from_flag_environment_and_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = {
        "models": "elsewhere",
        "host": "0.0.0.0",
        "provider": "cpu",
        "cache_folder": "elsewhere",
        "batch_timeout_seconds": "7.5",
        "drain_seconds": "7.5",
        "target_p99_ms": "7.5",
        "tune": "full",
        "log_level": "error",
        "log_format": "json",
        "max_queue_images": "1025",
        "workers": "3",
        "gpu_devices": "0,1",
        "gpu_fp32": "tf32",
        "cuda_graphs": "auto",
        "model_control": "watch",
        "system_shared_memory": "on",
        "triton_metrics": "on",
        "ui": "off",
        "trace_endpoint": "https://collector:4317",
        "trace_sample_share": "0.5",
        "trace_callers_per_second": "7.5",
        "access_log_share": "0.5",
    }.get(name, "1024")
    default = getattr(Settings.resolve([]), name)

    from_flag = getattr(Settings.resolve([f"--{name.replace('_', '-')}", value]), name)
    monkeypatch.setenv(f"RETINUE_{name.upper()}", value)
    from_environment = getattr(Settings.resolve([]), name)
    monkeypatch.delenv(f"RETINUE_{name.upper()}")
    path = tmp_path / "retinue.toml"
    is_number = isinstance(default, int | float)
    path.write_text(f"{name} = {value}\n" if is_number else f"{name} = '{value}'\n")
    from_file = getattr(Settings.resolve(["--config", str(path)]), name)

    assert from_flag == from_environment == from_file != default
    assert str(from_flag) == value


def test_printed_settings_are_a_file_that_gives_the_same_settings(tmp_path: Path) -> None:
    settings = Settings.resolve(
        ["--models", 'my "models" \\ of\tall kinds', "--drain-seconds", "0.125", "--provider", "cpu"]
    )
    path = tmp_path / "retinue.toml"
    path.write_text(settings.as_toml(), encoding="utf-8")
    again = Settings.resolve(["--config", str(path)])
    assert again.model_dump(exclude={"config"}) == settings.model_dump(exclude={"config"})


@trying(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    models=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1),
    seconds=st.floats(min_value=0, allow_nan=False),
    pixels=st.integers(min_value=1),
)
def test_printed_settings_are_valid_toml_whatever_they_are(models: str, seconds: float, pixels: int) -> None:
    settings = Settings(
        models=models, drain_seconds=seconds, max_image_pixels=pixels, insecure=pixels % 2 == 0
    )
    values = tomllib.loads(settings.as_toml())
    assert values["models"] == models
    assert (values["drain_seconds"], values["max_image_pixels"]) == (seconds, pixels)
    assert values.keys() == Settings.model_fields.keys() - {"config", "print_config"}


def test_printed_settings_explain_each(tmp_path: Path) -> None:
    comments = [line for line in Settings.resolve([]).as_toml().splitlines() if line.startswith("# ")]
    assert len(comments) == len(Settings.model_fields) - 2


def test_settings_cannot_be_changed() -> None:
    settings = Settings.resolve([])
    with pytest.raises(ValidationError, match="frozen"):
        settings.host = "0.0.0.0"


BAD_SETTINGS: dict[str, tuple[tuple[str, ...], dict[str, str], tuple[str, ...]]] = {
    "a word for a port": (("--grpc-port", "abc"), {}, ("--grpc-port", "RETINUE_GRPC_PORT", "'abc'")),
    "a port that cannot be": (("--http-port", "70000"), {}, ("--http-port", "70000", "65535")),
    "a negative port": (("--grpc-port=-1",), {}, ("--grpc-port", "-1")),
    "an unknown provider": (("--provider", "abacus"), {}, ("--provider", "'abacus'", "auto")),
    "no queue": (("--max-queue-images", "0"), {}, ("--max-queue-images", "greater than or equal to 1")),
    "a request of no bytes": (("--max-request-bytes", "0"), {}, ("--max-request-bytes", "1024")),
    "a request larger than gRPC takes": (("--max-request-bytes", str(2**31)), {}, ("--max-request-bytes",)),
    "no pixels": (("--max-image-pixels", "0"), {}, ("--max-image-pixels",)),
    "negative instances": (("--instances=-1",), {}, ("--instances",)),
    "seconds that are no number": (("--drain-seconds", "nan"), {}, ("--drain-seconds",)),
    "negative seconds": (("--drain-seconds=-1",), {}, ("--drain-seconds",)),
    "an unknown log level": (("--log-level", "loud"), {}, ("--log-level", "'loud'", "warning")),
    "a bad port in the environment": ((), {"RETINUE_GRPC_PORT": "abc"}, ("RETINUE_GRPC_PORT", "'abc'")),
    "a bad provider in the environment": ((), {"RETINUE_PROVIDER": ""}, ("RETINUE_PROVIDER", "''")),
    "two at once": (
        ("--grpc-port", "abc", "--max-image-pixels", "0"),
        {},
        ("--grpc-port", "--max-image-pixels"),
    ),
}


@pytest.mark.parametrize("what", BAD_SETTINGS)
def test_a_bad_setting_is_named(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, environment, named = BAD_SETTINGS[what]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartupError) as refused:
        Settings.resolve(list(arguments))
    assert all(part in refused.value.message for part in named), refused.value.message
    assert "\n" not in refused.value.message


BAD_FILES: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "not there": (lambda path: None, ("cannot read the settings file", "No such file")),
    "a folder": (lambda path: path.mkdir(), ("cannot read the settings file", "Is a directory")),
    "not TOML": (lambda path: path.write_text("grpc_port: 8001"), ("not valid TOML", "line 1")),
    "not text": (lambda path: path.write_bytes(b"host = '\xff'"), ("not valid TOML",)),
    "an unknown key": (
        lambda path: path.write_text("grpc_prot = 1\n"),
        ("unknown settings: grpc_prot (the nearest is grpc_port).",),
    ),
    "a flag's spelling": (lambda path: path.write_text("grpc-port = 1\n"), ("unknown settings: grpc-port",)),
    "a bad value": (lambda path: path.write_text("grpc_port = 'abc'\n"), ("--grpc-port", "'abc'")),
    "a number for a path": (lambda path: path.write_text("models = 3\n"), ("--models", "3")),
    "a table for a word": (lambda path: path.write_text("[host]\nname = 'x'\n"), ("--host",)),
    "a list for a number": (lambda path: path.write_text("grpc_port = [1, 2]\n"), ("--grpc-port",)),
    "another file": (lambda path: path.write_text("config = 'x'\n"), ("unknown settings: config",)),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_bad_settings_file_is_named_with_what_is_wrong(what: str, tmp_path: Path) -> None:
    write, named = BAD_FILES[what]
    path = tmp_path / "retinue.toml"
    write(path)
    with pytest.raises(StartupError) as refused:
        Settings.resolve(["--config", str(path)])
    assert all(part in refused.value.message for part in named), refused.value.message


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--modles", "x"], "there is no flag '--modles' (the nearest is --models); --help lists all flags."),
        (
            ["--grpc-prot=1"],
            "there is no flag '--grpc-prot' (the nearest is --grpc-port); --help lists all flags.",
        ),
        (["--colour"], "there is no flag '--colour'; --help lists all flags."),
        (["serve", "--tune", "off"], "there is no flag 'serve'; --help lists all flags."),
        (["--grpc-port"], "argument --grpc-port: expected one argument; --help lists all flags."),
    ],
)
def test_a_flag_that_there_is_not_is_told_with_the_nearest(arguments: list[str], told: str) -> None:
    with pytest.raises(StartupError) as refused:
        Settings.resolve(arguments)
    assert refused.value.message == told


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("RETINUE_GRPC_PROT", "RETINUE_GRPC_PORT"),
        ("retinue_modles", "RETINUE_MODELS"),
        ("RETINUE_MAX_QUEUE_IMAGE", "RETINUE_MAX_QUEUE_IMAGES"),
    ],
)
def test_a_variable_that_is_nearly_a_setting_is_refused_with_it(
    variable: str, nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "1")
    with pytest.raises(StartupError) as refused:
        Settings.resolve([])
    assert f"has {variable}, which is no setting: the nearest one is {nearest};" in refused.value.message


def test_variables_of_clients_and_of_kubernetes_services_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SERVER", "PORT", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "SERVICE_PORT_HTTP"):
        monkeypatch.setenv(f"RETINUE_{name}", "x")
    for name in ("", "GRPC_", "HTTP_", "SERVER_"):
        for rest in (
            "SERVICE_HOST",
            "SERVICE_PORT",
            "PORT_8001_TCP",
            "PORT_8001_TCP_PORT",
            "PORT_8001_TCP_ADDR",
        ):
            monkeypatch.setenv(f"RETINUE_{name}{rest}", "x")
    assert Settings.resolve([]) == Settings()


@pytest.mark.parametrize(
    "name",
    [
        *("max_request_bytes", "max_bytes_in_flight", "max_reply_bytes"),
        *("gpu_memory_limit_bytes", "memory_limit", "tensor_memory_limit"),
    ],
)
def test_bytes_may_have_a_unit(name: str, tmp_path: Path) -> None:
    settings = Settings.resolve([f"--{name.replace('_', '-')}", "10MB"])
    assert getattr(settings, name) == 10_000_000
    assert f"\n{name} = 10000000\n" in settings.as_toml()
    path = tmp_path / "retinue.toml"
    path.write_text(f"{name} = '64MiB'\n")
    assert getattr(Settings.resolve(["--config", str(path)]), name) == 64 * 1024**2
    with pytest.raises(StartupError, match="'10 parrots'"):
        Settings.resolve([f"--{name.replace('_', '-')}", "10 parrots"])


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        Settings.resolve(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')}" in text


def test_a_cache_folder_in_a_home_that_there_is_not_is_named() -> None:
    settings = Settings(cache_folder=Path("~nobody-of-this-name/cache"))
    with pytest.raises(StartupError, match=r"--cache-folder .* no home folder"):
        _ = settings.expanded_cache_folder


def test_the_cache_folder_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert Settings(cache_folder=Path("~/cache")).expanded_cache_folder == Path("/home/somebody/cache")


def test_options_of_a_store_are_a_json_object() -> None:
    assert Settings().parsed_models_options == {}
    assert Settings(models_options='{"anon": true}').parsed_models_options == {"anon": True}
    for wrong in ("{", "[]", "1"):
        with pytest.raises(StartupError, match="--models-options"):
            _ = Settings(models_options=wrong).parsed_models_options


@pytest.mark.parametrize(
    "endpoint",
    [
        "collector:4317",
        "ftp://collector",
        "http://",
        "http://collector",
        "http://a:b@c:4317",
        "http://h:4317/v1",
    ],
)
def test_a_collector_has_an_address_of_which_one_sees_whether_it_is_encrypted(endpoint: str) -> None:
    with pytest.raises(StartupError, match="--trace-endpoint"):
        Settings.resolve(["--trace-endpoint", endpoint])


@pytest.mark.parametrize("share", ["1.1", "-0.1", "nan"])
def test_a_share_is_of_a_whole(share: str) -> None:
    for flag in ("--trace-sample-share", "--access-log-share"):
        with pytest.raises(StartupError, match=flag):
            Settings.resolve([flag, share])


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("max-concurrent-requests", 10**6),
        ("max-queue-images", 10**6),
        ("max-images-per-request", 10**6),
        ("max-bytes-in-flight", 2**50),
        ("max-decoded-bytes-in-flight", 2**50),
    ],
)
def test_limits_are_no_larger_than_what_is_counted_with_them(name: str, most: int) -> None:
    assert getattr(Settings.resolve([f"--{name}", str(most)]), name.replace("-", "_")) == most
    with pytest.raises(StartupError, match=rf"{name}.*less than or equal to"):
        Settings.resolve([f"--{name}", str(most + 1)])
