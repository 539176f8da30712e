from retinue.v1 import vision_service_pb2 as pb
from tests.unit.server.served import served_model

from retinue_server.catalog import ids_by_label
from retinue_server.results import Task
from retinue_server.rpc.requests import detect_options, segment_options

BIRD, MACHINE = 1, 3


def test_a_label_that_several_classes_have_means_all_of_them() -> None:
    labels = ["dog", "crane", "cat", "crane"]
    ids = ids_by_label(labels)
    assert ids == {"dog": {0}, "crane": {BIRD, MACHINE}, "cat": {2}}
    detector = served_model("a", task=Task.DETECT, labels=labels)
    detector.manifest.detect.max_detections = 10
    assert detect_options(pb.DetectRequest(classes=["crane"]), detector).class_ids == {BIRD, MACHINE}
    assert detect_options(pb.DetectRequest(classes=["dog", "crane"]), detector).class_ids == {
        0,
        BIRD,
        MACHINE,
    }
    assert detect_options(pb.DetectRequest(), detector).class_ids is None
    segmenter = served_model("b", task=Task.SEGMENT, labels=labels)
    assert segment_options(pb.SegmentRequest(classes=["crane"]), segmenter).class_ids == {BIRD, MACHINE}
