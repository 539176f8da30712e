"""What models run on, as the settings say and this machine has it."""

from retinue_server.runtime.cache import ModelCache
from retinue_server.runtime.memory import tensor_limit_bytes
from retinue_server.runtime.pools import ThreadPools
from retinue_server.runtime.providers import Provider, available_cores, choose
from retinue_server.runtime.session import Machine, Threads
from retinue_server.runtime.tensor_arena import TensorArena
from retinue_server.settings import Settings

# While the GPU runs one batch, the next one is decoded.
_INSTANCES_ON_A_GPU = 2


def chosen_provider(settings: Settings) -> Provider:
    """What is to run the networks, tried out.

    Raises:
        StartupError: What the settings ask for does not work here.
    """
    return choose(
        settings.provider,
        gpu_devices=settings.gpu_devices,
        gpu_memory_limit_bytes=settings.gpu_memory_limit_bytes,
        cache_folder=settings.expanded_cache_folder,
        tf32=settings.gpu_fp32 == "tf32",
    )


def planned(settings: Settings, provider: Provider, kept: ModelCache) -> Machine:
    """How batches share the machine.

    One single-threaded instance a core serves a full queue fastest on a CPU, since none waits for another. A lone image
    takes all cores there. While a GPU runs one batch, its second instance decodes the next.

    Args:
        settings: May say how many instances there are to be.
        provider: What runs the networks.
        kept: Where optimised graphs are kept.
    """
    arena = _tensor_arena(settings, provider)
    if provider.on_gpu:
        instances = settings.instances or _INSTANCES_ON_A_GPU * len(provider.devices)
        return Machine(
            provider, Threads(instances, 1), kept, cuda_graphs=settings.cuda_graphs, tensor_arena=arena
        )
    cores = available_cores()
    instances = settings.instances or cores
    threads = Threads(instances, max(1, cores // instances))
    pools = ThreadPools(cores) if threads.per_instance < cores else None
    return Machine(provider, threads, kept, pools, tensor_arena=arena)


def _tensor_arena(settings: Settings, provider: Provider) -> TensorArena:
    # In front of a GPU --memory-limit is about the device's memory.
    process_bytes = 0 if provider.on_gpu else settings.memory_limit
    return TensorArena(tensor_limit_bytes(settings.tensor_memory_limit, process_bytes))
