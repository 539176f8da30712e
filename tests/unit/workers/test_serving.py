from retinue.v1 import vision_service_pb2 as pb

from retinue_server.errors import BundleError, UnavailableError
from retinue_server.runtime.providers import CPU, Provider
from retinue_server.settings import Settings
from retinue_server.workers.serving import Plan, Served, shared_among
from retinue_server.workers.slots import Layout, Place, Row


def test_a_front_end_has_the_servers_settings() -> None:
    settings = Settings(models='odd "name"', host="::1", workers=3, drain_seconds=1.5)
    provider = Provider(CPU, "auto", "no driver", ((CPU, {}),))
    plan = Plan.unpack(Plan(settings, provider, 4).pack())
    assert plan.settings == settings
    assert plan.decode_threads == 4
    told = plan.provider
    assert (told.name, told.requested, told.fallback_reason) == (CPU, "auto", "no driver")


def test_limits_of_the_whole_server_are_shared() -> None:
    settings = Settings(workers=3, max_concurrent_requests=10, max_bytes_in_flight=3_000_000)
    share = shared_among(settings, 3, grpc_port=7)
    assert share.max_concurrent_requests == 4
    assert share.max_bytes_in_flight == 1_000_000
    assert share.grpc_port == 7
    assert share.max_images_per_request == settings.max_images_per_request


def test_models_and_failures_come_out_as_they_went_in() -> None:
    layouts = [
        Layout(2, (Row("images", "uint8", (1, 2, 3)),), (Row("class_map", "int32", (4, 4)),), ()),
        Layout(9, (Row("images", "uint8", (1, 1, 1)),), (), (Row("heatmap", "float32", (2, 2)),)),
    ]
    models = [pb.Model(name="one", version=1), pb.Model(name="two", version=7)]
    places = [Place(3, 0, layouts[0]), Place(9, 2**40, layouts[1])]
    pipelines = [pb.Model(name="both", version=1)]
    failures = {("three", 3): BundleError("broken.", reason="ODD")}
    unready = {9: UnavailableError("it hangs.", reason="MODEL_UNREADY")}
    served = Served.unpack(Served(5, models, places, pipelines, failures, unready).pack())
    assert served.number == 5
    assert list(served.models) == models
    assert list(served.places) == places
    assert list(served.pipelines) == pipelines
    ((key, error),) = served.failures.items()
    assert (key, error.message, error.reason) == (("three", 3), "broken.", "ODD")
    ((number, refusal),) = served.unready.items()
    assert (number, refusal.message, refusal.reason) == (9, "it hangs.", "MODEL_UNREADY")
