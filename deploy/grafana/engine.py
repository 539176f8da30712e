"""The dashboard of the machine: how busy its threads are, what calls hold, and what memory is left."""

from page import dashboard as page
from panels import (
    IMAGES,
    MODEL,
    SERVER,
    Json,
    chart,
    rate,
    stat,
    target,
    utilisation,
)

_BATCHES = "retinue_pool_batches_total"
_ENGINE = f'{SERVER}, pool="engine"'
_CPU = "process_cpu_seconds_total"
# Of all processes of a server.
_RESIDENT = (
    'sum by (instance) ({__name__=~"process_resident_memory_bytes|retinue_worker_resident_memory_bytes", '
    f"{SERVER}}})"
)
_FLIGHT = "retinue_{what}_in_flight{{{selector}}} / retinue_{what}_in_flight_limit{{{selector}}}"


def now() -> list[Json]:
    """The figures to look at first."""
    return [
        stat(
            "Engine",
            "The share of their time that the threads which run networks are busy. From 80 % on queues grow quickly.",
            "percentunit",
            f"max({utilisation('instance, pool', _ENGINE)})",
            orange=0.8,
            red=0.95,
        ),
        stat(
            "Waiting",
            "Images that no thread has begun.",
            "none",
            f"sum(retinue_pool_waiting_images{{{SERVER}}})",
            orange=256,
            red=1024,
        ),
        stat(
            "Failed batches",
            "Batches a minute of which nothing has an answer. The log has each as batch_failed.",
            "none",
            "60 * sum(" + rate(_BATCHES, f'{SERVER}, outcome="failed"') + ")",
            orange=0.1,
            red=1,
        ),
        stat(
            "Calls",
            "Of the calls that may be in flight at once, the share that is, on the fullest server.",
            "percentunit",
            f"max({_FLIGHT.format(what='calls', selector=SERVER)})",
            orange=0.5,
            red=0.9,
        ),
        stat(
            "Bytes",
            "Of the bytes that these may hold, the share that they do, on the fullest server.",
            "percentunit",
            f"max({_FLIGHT.format(what='bytes', selector=SERVER)})",
            orange=0.5,
            red=0.9,
        ),
        stat(
            "Memory",
            "Of the limit, on the server that is nearest to it. Empty where there is none.",
            "percentunit",
            f'max({_RESIDENT} / on (instance) retinue_memory_limit_bytes{{{SERVER}, memory="process"}})',
            orange=0.8,
            red=0.9,
        ),
        stat(
            "CPU",
            "Cores in use by the servers' first processes.",
            "suffix: cores",
            f"sum({rate(_CPU, SERVER)})",
        ),
        stat(
            "CPU an image",
            "Processor time for each image answered by any model: the cost to watch.",
            "s",
            f"sum({rate(_CPU, SERVER)}) / sum(" + rate(IMAGES, f'{SERVER}, outcome="answered"') + ")",
        ),
    ]


def pools() -> list[Json]:
    """Utilisation, saturation and errors of each pool of threads."""
    return [
        chart(
            "Utilisation by pool",
            "The share of their time that threads are busy: engine runs networks, front-ends and decoders decode, "
            "cutter cuts out objects.",
            "percentunit",
            target(utilisation("instance, pool"), "{{instance}} {{pool}}"),
        ),
        chart(
            "Waiting by pool",
            "Images that no thread of the pool has begun: for long above 0 means that more is asked than can be done.",
            "none",
            target(
                f"sum by (instance, pool) (retinue_pool_waiting_images{{{SERVER}}})", "{{instance}} {{pool}}"
            ),
        ),
        chart(
            "Batches by pool and outcome",
            "Batches a second. Stopped: nobody waited for them any more.",
            "suffix: batches/s",
            target(f"sum by (pool, outcome) ({rate(_BATCHES, SERVER)})", "{{pool}} {{outcome}}"),
        ),
    ]


def calls() -> list[Json]:
    """What calls hold of what they may."""
    return [
        chart(
            "Calls in flight",
            "Until their replies are read. Further ones are refused from the limit on.",
            "none",
            target(f"retinue_calls_in_flight{{{SERVER}}}", "{{instance}}"),
            target(f"retinue_calls_in_flight_limit{{{SERVER}}}", "{{instance}} limit"),
        ),
        chart(
            "Bytes in flight",
            "What these hold of requests and replies. What would exceed the limit is refused.",
            "bytes",
            target(f"retinue_bytes_in_flight{{{SERVER}}}", "{{instance}}"),
            target(f"retinue_bytes_in_flight_limit{{{SERVER}}}", "{{instance}} limit"),
        ),
        chart(
            "Open files",
            "File descriptors of each server's first process: connections, mostly.",
            "none",
            target(f"process_open_fds{{{SERVER}}}", "{{instance}}"),
            target(f"process_max_fds{{{SERVER}}}", "{{instance}} limit"),
        ),
    ]


def memory() -> list[Json]:
    """What memory is taken, and by what."""
    return [
        chart(
            "Memory of the processes",
            "Resident bytes of each server's processes together, and the limit where there is one.",
            "bytes",
            target(_RESIDENT, "{{instance}}"),
            target(f'retinue_memory_limit_bytes{{{SERVER}, memory="process"}}', "{{instance}} limit"),
        ),
        chart(
            "Memory reserved",
            "What of the limit the server and all models take, used already or not. The rest is what fits still.",
            "bytes",
            target(f"retinue_memory_reserved_bytes{{{SERVER}}}", "{{instance}} {{memory}}"),
        ),
        chart(
            "Memory by model",
            "What each takes at most: weights, ONNX Runtime's arena (on a GPU: of the device), and buffers.",
            "bytes",
            target(
                f"sum by (model, version) (retinue_model_memory_bytes{{{MODEL}}})",
                "{{model}} version {{version}}",
            ),
            stack=True,
        ),
        chart(
            "Memory of front-ends",
            "Resident bytes of each, what it shares with others included. Empty without --workers.",
            "bytes",
            target(f"retinue_worker_resident_memory_bytes{{{SERVER}}}", "{{instance}} {{worker}}"),
        ),
        chart(
            "GPU memory used",
            "Device memory in use, by all processes. Empty where there is no GPU.",
            "bytes",
            target(f"retinue_gpu_memory_used_bytes{{{SERVER}}}", "{{instance}} GPU {{gpu}}"),
        ),
        chart(
            "GPU memory used of total",
            "Share of the device's memory in use. Empty where there is no GPU.",
            "percentunit",
            target(
                f"retinue_gpu_memory_used_bytes{{{SERVER}}} / retinue_gpu_memory_total_bytes{{{SERVER}}}",
                "{{instance}} GPU {{gpu}}",
            ),
        ),
    ]


def processors() -> list[Json]:
    """What the processes use of the processors, and when they ended."""
    return [
        chart(
            "CPU",
            "Cores in use by each server's first process.",
            "suffix: cores",
            target(f"sum by (instance) ({rate(_CPU, SERVER)})", "{{instance}}"),
            w=12,
        ),
        chart(
            "Restarts of front-ends",
            "Front-end processes that ended by themselves and were started again. Empty without --workers.",
            "none",
            target(f"retinue_worker_restarts_total{{{SERVER}}}", "{{instance}}"),
            w=12,
        ),
    ]


def dashboard() -> Json:
    """The whole dashboard."""
    return page(
        "retinue-engine",
        "Retinue: engine and memory",
        "How busy the threads of Retinue servers are, what calls hold, and what memory is left.",
        [
            ("Now", now()),
            ("Threads", pools()),
            ("Calls in flight", calls()),
            ("Memory", memory()),
            ("Processes", processors()),
        ],
    )
