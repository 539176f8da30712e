"""The server's settings: one frozen object, resolved once from defaults, file, environment and flags."""

import json
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ByteSize, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from retinue_server import setting_sources
from retinue_server.errors import StartupError

MIB = 1024 * 1024

# Beyond what any machine holds, and far within what protobuf, gRPC and their sums can.
_MOST_IMAGES = 1_000_000
_MOST_BYTES = 2**50

_NOT_IN_FILES = frozenset({"config", "print_config"})

# As in `bundle.manifest`.
_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
# A name or an address, that of IPv6 in brackets.
_HOST = r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"


class Settings(BaseSettings):
    """Serves the models of a folder over gRPC and HTTP.

    Every flag is also an environment variable (--grpc-port is RETINUE_GRPC_PORT) and a key of the TOML file that
    --config names (grpc_port). Flags win over the environment, the environment over the file.

    `retinue-server doctor`, with the same flags, starts nothing and says what a server would find here;
    `retinue-server token NAME` makes a token for the file of --tokens.
    """

    model_config = SettingsConfigDict(
        env_prefix=setting_sources.PREFIX,
        frozen=True,
        extra="forbid",
        cli_prog_name="retinue-server",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    config: Path | None = Field(None, description="a TOML file with settings")
    print_config: bool = Field(False, description="print the resolved settings as TOML and exit")

    models: str = Field(
        "models",
        description="folder of bundles, NAME/VERSION/model.onnx and manifest.json, or its address as fsspec has it, "
        "such as s3://BUCKET/FOLDER, of which a copy is kept in --cache-folder",
    )
    models_options: str = Field(
        "",
        description="what fsspec's filesystem is told for such an address, a JSON object; credentials are better in "
        "the environment",
    )
    mirror_limit: ByteSize = Field(
        ByteSize(0),
        ge=0,
        description="most disk of that copy, such as 20GiB; 0 means what there is, but for a twentieth of it",
    )
    model_control: Literal["none", "explicit", "watch"] = Field(
        "none",
        description="how models come and go: none loads what is there at the start and keeps it, watch follows the "
        "folder, explicit loads and unloads by calls",
    )
    load_models: str = Field(
        "",
        pattern=rf"^(all|{_NAME}(,{_NAME})*)?$",
        description="models that --model-control explicit loads at the start: names separated by commas, or all",
    )
    host: str = Field(
        "127.0.0.1",
        description="address to listen on; one that others reach needs --tokens, --tls-client-ca or --insecure",
    )
    insecure: bool = Field(False, description="whether anybody who reaches --host may ask anything")
    grpc_port: int = Field(8001, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    http_port: int = Field(8080, ge=0, le=65535, description="HTTP port, of metrics, too; 0 picks a free one")
    http_names: str = Field(
        "",
        pattern=rf"^({_NAME}(,{_NAME})*)?$",
        description="names, separated by commas, by which callers may call the HTTP port besides addresses and "
        "localhost; empty for any, where tokens, certificates or --insecure say who may ask",
    )
    ui: Literal["on", "off"] = Field("on", description="whether the HTTP port has the page, /ui/")

    tls_certificate: str = Field(
        "",
        description="PEM file of the server's certificate, with those between it and its authority: both ports then "
        "speak TLS only; read again when it changes",
    )
    tls_key: str = Field("", description="PEM file of its private key; read again when it changes")
    tls_client_ca: str = Field(
        "",
        description="PEM file of authorities: callers of both ports then need a certificate of one of them; read again "
        "when it changes",
    )

    tokens: str = Field(
        "",
        description="file of the tokens that callers need, JSON or TOML, read again when it changes; `retinue-server "
        "token NAME` makes one; empty means that nobody needs any",
    )

    require_signature: str = Field(
        "",
        description="PEM file of public keys, Ed25519: only bundles that one of them has signed are served, see "
        "retinue-export sign; read again when it changes; empty means that they need no signature",
    )

    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = Field(
        "auto", description="what runs the networks; auto takes CUDA where it works and the CPU otherwise"
    )
    gpu_devices: str = Field(
        "0",
        pattern=r"^(all|\d{1,4}(,\d{1,4})*)$",
        description="CUDA device numbers, such as 0,1, or all; each of them runs every model",
    )
    gpu_memory_limit_bytes: ByteSize = Field(
        ByteSize(0),
        ge=0,
        description="most device memory of each ONNX Runtime session, such as 4GiB; 0 means what the device has",
    )
    gpu_fp32: Literal["exact", "tf32"] = Field(
        "exact",
        description="how a GPU multiplies what models compute in 32 bits; tf32 is faster, with 10 bits of mantissa, "
        "and bundles' certificates of parity say nothing of it",
    )
    cuda_graphs: Literal["auto", "off"] = Field(
        "off", description="auto runs networks as CUDA graphs where they allow it"
    )
    memory_limit: ByteSize = Field(
        ByteSize(0),
        ge=0,
        description="most memory of the server and its models, such as 1800MB or 2GiB; models that do not fit are "
        "refused; 0 means what the control group grants; on a GPU, device memory of all models, and 0 means no limit",
    )
    tensor_memory_limit: ByteSize = Field(
        ByteSize(0),
        ge=0,
        description="most memory that all models without a manifest work in, beside their weights, such as 1GiB; a "
        "request that wants more is refused; 0 means a quarter of --memory-limit, or of what the control group grants, "
        "or of the machine's",
    )
    cache_folder: Path = Field(
        Path("~/.cache/retinue"),
        description="where optimised graphs, measurements and TensorRT's engines are kept between starts",
    )
    tune: Literal["off", "fast", "full"] = Field(
        "fast",
        description="whether models are measured: fast does so once a machine, full at every start and longer",
    )
    target_p99_ms: float = Field(
        0, ge=0, description="latency that batches of a CPU or GPU are kept small for; 0 means none"
    )
    instances: int = Field(
        0,
        ge=0,
        le=1024,
        description="batches that run at once; 0 means one a core on a CPU, two in front of each GPU",
    )
    decode_threads: int = Field(
        0,
        ge=0,
        le=1024,
        description="threads that decode images in front of a GPU, or in all --workers together; 0 means one a core",
    )

    workers: int = Field(
        0,
        ge=0,
        le=64,
        description="processes that read requests, decode and answer in front of the one that runs the networks; "
        "0 means that one process does all of it",
    )

    batch_timeout_seconds: float = Field(
        60.0,
        ge=0,
        description="how long a batch may run, or 20 times what was measured where that is more, before it is stopped "
        "and its model probed; 0 means for ever",
    )
    max_queue_images: int = Field(
        1024, ge=1, le=_MOST_IMAGES, description="images that may wait for one model; more are refused"
    )
    max_images_per_request: int = Field(256, ge=1, le=_MOST_IMAGES, description="images in one request")
    max_request_bytes: ByteSize = Field(
        ByteSize(64 * MIB), ge=1024, le=2**31 - 1, description="bytes of one request, such as 10MB or 64MiB"
    )
    max_bytes_in_flight: ByteSize = Field(
        ByteSize(512 * MIB),
        ge=1024,
        le=_MOST_BYTES,
        description="bytes of all requests being answered and of their replies; more are refused; unless set, at "
        "most a 24th of the memory limit",
    )
    max_decoded_bytes_in_flight: ByteSize = Field(
        ByteSize(1024 * MIB),
        ge=1024,
        le=_MOST_BYTES,
        description="bytes that images take while they are decoded, in each process that decodes; further ones wait, "
        "and those that take more alone are refused; unless set, at most an eighth of the memory limit",
    )
    max_reply_bytes: ByteSize = Field(
        ByteSize(256 * MIB), ge=1024, le=2**31 - 1, description="bytes of the masks or heatmaps of one reply"
    )
    max_concurrent_requests: int = Field(
        4096, ge=1, le=1_000_000, description="calls at once; more are refused"
    )
    max_streams_per_connection: int = Field(
        0,
        ge=0,
        le=2**31 - 1,
        description="calls that one connection carries at once, further ones wait at the caller; 0 means eight a core, "
        "at least 16",
    )
    max_image_pixels: int = Field(
        50_000_000, ge=1, description="pixels of one image, refused from its header"
    )
    max_connections: int = Field(
        4096,
        ge=1,
        description="connections of each port and process, or what its file descriptors allow; further ones are closed",
    )
    max_connection_age_seconds: int = Field(
        3600,
        ge=0,
        le=1_000_000,
        description="when a connection takes no more calls and its caller makes a new one, a tenth sooner or later; 0 "
        "means never",
    )
    max_connection_age_grace_seconds: int = Field(
        3600, ge=0, le=1_000_000, description="how long calls of such a connection may go on"
    )
    max_connection_idle_seconds: int = Field(
        300, ge=1, le=1_000_000, description="when a connection without a call is closed"
    )
    arrival_timeout_seconds: int = Field(
        60,
        ge=1,
        le=1_000_000,
        description="how long the head of a request, its body, and the reading of a piece of its reply may each take",
    )
    keepalive_seconds: int = Field(
        60,
        ge=1,
        le=1_000_000,
        description="after how long a silence a caller is asked whether it is still there",
    )
    keepalive_timeout_seconds: int = Field(
        20, ge=1, le=1_000_000, description="how long it may take to say so, until its connection is closed"
    )
    min_ping_seconds: int = Field(
        10,
        ge=0,
        le=1_000_000,
        description="how often a caller may ask likewise without sending data; who does so more often is cut off",
    )
    max_metadata_bytes: ByteSize = Field(
        ByteSize(16 * 1024),
        ge=1024,
        le=2**24,
        description="bytes of what comes beside a gRPC request; the head of one over HTTP, whose address may be long, "
        "has four times as many",
    )

    system_shared_memory: Literal["on", "off"] = Field(
        "off",
        description="whether callers may name shared memory of this machine instead of sending tensors; they reach all "
        "of it that the server's user may read and write; not with --workers",
    )

    triton_metrics: Literal["on", "off"] = Field(
        "off", description="whether /metrics has Triton's names, too, such as nv_inference_count"
    )

    trace_endpoint: str = Field(
        "",
        pattern=rf"^(https?://{_HOST}:\d{{1,5}}/?)?$",
        description="OTLP collector that traces are sent to over gRPC, such as http://collector:4317; needs "
        "retinue-server[otel]; empty means none",
    )
    trace_sample_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of calls that are traced where their callers say nothing of traces",
    )
    trace_callers_per_second: float = Field(
        10, ge=0, description="calls a second that are traced because their callers keep the trace"
    )
    access_log_share: float = Field(
        0,
        ge=0,
        le=1,
        description="share of calls that the log has a line of; of those that fail here it has all",
    )

    drain_seconds: float = Field(30.0, ge=0, description="how long SIGTERM waits for work in flight")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severe events logged"
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto is console on a terminal and json elsewhere"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Behind the flags: the environment, then what `resolve` read from the file."""
        return env_settings, init_settings

    @classmethod
    def resolve(cls, arguments: list[str]) -> Self:
        """Resolves the settings from command-line arguments, environment and file.

        Args:
            arguments: The command line without the program's name.

        Raises:
            StartupError: A setting is unknown or out of its range, a variable is nearly called like one, or the file
                cannot be read.
            SystemExit: --help was asked for.
        """
        names = cls.model_fields
        setting_sources.check_environment(names)
        try:
            flags = CliSettingsSource[Any](cls, cli_parse_args=arguments, cli_exit_on_error=False)
        except SettingsError as error:
            raise StartupError(setting_sources.explain_flags(str(error), names)) from error
        try:
            settings = cls(_cli_settings_source=flags)  # type: ignore[call-arg]
            if settings.config is not None:
                values = setting_sources.read_file(settings.config, names.keys() - _NOT_IN_FILES)
                settings = cls(_cli_settings_source=flags, **values)  # type: ignore[call-arg]
        except ValidationError as error:
            raise StartupError(setting_sources.explain(error)) from error
        return settings

    @property
    def expanded_cache_folder(self) -> Path:
        """Where ~ in `cache_folder` leads.

        Raises:
            StartupError: There is no such home.
        """
        try:
            return self.cache_folder.expanduser()
        except RuntimeError as error:
            raise StartupError(
                f"--cache-folder (RETINUE_CACHE_FOLDER) is {self.cache_folder}, but this user has no home folder; name "
                "a folder without ~."
            ) from error

    @property
    def parsed_models_options(self) -> dict[str, Any]:
        """What `models_options` says.

        Raises:
            StartupError: It is no JSON object.
        """
        try:
            options = json.loads(self.models_options or "{}")
        except ValueError as error:
            raise StartupError(f"--models-options (RETINUE_MODELS_OPTIONS) is no JSON: {error}.") from error
        if not isinstance(options, dict):
            raise StartupError(
                "--models-options (RETINUE_MODELS_OPTIONS) must be a JSON object, such as "
                '{"endpoint_url": "http://localhost:9000"}.'
            )
        return options

    def as_toml(self) -> str:
        """The settings as a file that --config reads."""
        lines = []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name in _NOT_IN_FILES:
                continue
            is_number = isinstance(value, int | float)
            text = str(value).lower() if is_number else setting_sources.toml_string(str(value))
            lines.append(f"# {field.description}\n{name} = {text}")
        return "\n".join(lines) + "\n"
