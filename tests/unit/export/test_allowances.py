"""What fewer bits may change, and what a converted graph may when it is compared again."""

import numpy as np
import pytest
from retinue.v1 import manifest_pb2 as pb

from retinue_export import allowances, parity
from retinue_export.errors import ExportError, ParityError


def test_16_bits_may_change_few_answers() -> None:
    allowances.check_16_bits([], {"detection_agreement": 0.95}, "In FP16")
    with pytest.raises(ParityError, match=r"In FP16 only 94\.0 % of the answers"):
        allowances.check_16_bits([], {"detection_agreement": 0.94}, "In FP16")


@pytest.mark.parametrize("largest", [np.inf, np.nan])
@pytest.mark.parametrize("output", ["probabilities", "heatmap"])
def test_16_bits_may_make_nothing_infinite(output: str, largest: float) -> None:
    allowances.check_16_bits([pb.OutputParity(output=output, max_difference=0.01)], {}, "In FP16")
    with pytest.raises(ParityError, match=f"In FP16 output `{output}` differs by up to {largest}"):
        allowances.check_16_bits([pb.OutputParity(output=output, max_difference=largest)], {}, "In FP16")


def test_without_labels_answers_that_changed_count_as_the_drop() -> None:
    figure = pb.QualityMeasurement(
        metric="top1_agreement", value=0.95, precision=pb.PRECISION_INT8, engine="onnxruntime", images=40
    )
    allowances.check_drop([figure], pb.PRECISION_INT8, max_drop=5)
    with pytest.raises(ParityError, match=r"5\.00 points"):
        allowances.check_drop([figure], pb.PRECISION_INT8, max_drop=4)


@pytest.mark.parametrize(
    ("precision", "advice"),
    [
        (pb.PRECISION_INT8, r"give --labelled, or other images to --calibration\.$"),
        (pb.PRECISION_FP16, r"give --labelled\.$"),
    ],
)
def test_a_conversion_of_which_nothing_is_seen_is_refused(
    precision: pb.Precision.ValueType, advice: str
) -> None:
    allowances.check_drop([], pb.PRECISION_FP16_WEIGHTS, max_drop=1)
    with pytest.raises(ExportError, match=advice):
        allowances.check_drop([], precision, max_drop=1)


def test_labelled_images_show_what_a_conversion_changes_where_nothing_else_does() -> None:
    def figure(value: float, engine: str, precision: pb.Precision.ValueType) -> pb.QualityMeasurement:
        return pb.QualityMeasurement(metric="map_50", value=value, precision=precision, engine=engine)

    before = figure(0.8, "pytorch", pb.PRECISION_FP32)
    after = figure(0.795, "onnxruntime", pb.PRECISION_INT8)
    allowances.check_drop([before, after], pb.PRECISION_INT8, max_drop=1)
    with pytest.raises(ParityError, match="map_50 falls from"):
        allowances.check_drop([before, after], pb.PRECISION_INT8, max_drop=0.1)


def test_a_converted_graph_is_held_against_its_own_certificate() -> None:
    recorded = pb.OutputParity(output="probabilities", max_difference=0.1, mean_difference=0.01)
    allowances.allow_again([recorded])
    assert recorded.tolerance == pytest.approx(0.1501)

    def now(largest: float, mean: float) -> pb.OutputParity:
        return pb.OutputParity(
            output="probabilities", max_difference=largest, mean_difference=mean, tolerance=recorded.tolerance
        )

    allowances.check_means([now(0.12, 0.012)], {"probabilities": recorded})
    parity.check([now(0.12, 0.012)])
    with pytest.raises(ParityError, match=r"up to 0\.2"):
        parity.check([now(0.2, 0.01)])
    with pytest.raises(ParityError, match=r"0\.02 on the mean"):
        allowances.check_means([now(0.1, 0.02)], {"probabilities": recorded})
