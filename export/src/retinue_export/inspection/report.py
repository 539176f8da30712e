"""Facts as JSON and as a page."""

from typing import Any

from google.protobuf import json_format

from retinue_export import bundle, pages
from retinue_export.inspection import layers, macs, manifest_text
from retinue_export.inspection.facts import Facts, Port
from retinue_export.inspection.layers import Layer

_TOP = 10


def as_json(facts: Facts) -> dict[str, Any]:
    """Everything, for machines; the manifest as its own file has it, with every field."""
    return {
        "file": str(facts.file),
        "file_bytes": facts.file_bytes,
        "sha256": facts.sha256,
        "external_files": facts.external_files,
        "ir_version": facts.ir_version,
        "opsets": facts.opsets,
        "producer": facts.producer,
        "inputs": [_port(port) for port in facts.inputs],
        "outputs": [_port(port) for port in facts.outputs],
        "nodes": sum(facts.operators.values()),
        "operators": facts.operators,
        "parameters": facts.parameters,
        "stored_bytes": facts.stored_bytes,
        "macs": facts.macs,
        "flops": 2 * facts.macs,
        "counted": macs.counted_operators(),
        "not_counted": facts.uncounted,
        "stages": [_layer(layer) for layer in layers.stages(facts.layers)],
        "layers": [_layer(layer) for layer in facts.layers],
        "manifest": None
        if facts.manifest is None
        else json_format.MessageToDict(
            facts.manifest, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        ),
    }


def page(facts: Facts) -> str:
    """A page of HTML that needs no other file."""
    by_stage = layers.stages(facts.layers) or layers.by_operator(facts.layers)
    return pages.render(
        "inspection.html",
        facts=facts,
        manifest=facts.manifest,
        described=manifest_text.facts(facts.manifest) if facts.manifest is not None else {},
        precision_name=manifest_text.precision,
        other_side=bundle.other_side,
        stages=by_stage,
        most_macs=max((stage.macs or 0 for stage in by_stage), default=0),
        most_bytes=max((stage.stored_bytes for stage in by_stage), default=0),
        counted=counted(facts),
    )


def counted(facts: Facts) -> list[str]:
    """The operators that the multiply-adds of a graph are those of."""
    return [name for name in macs.counted_operators() if name in facts.operators]


def heaviest(facts: Facts) -> list[Layer]:
    """The ten layers with the most multiply-adds."""
    return layers.largest(facts.layers, lambda layer: layer.macs or 0, _TOP)


def fattest(facts: Facts) -> list[Layer]:
    """The ten layers with the most bytes."""
    return layers.largest(facts.layers, lambda layer: layer.stored_bytes, _TOP)


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "type": port.number_format, "shape": port.shape and list(port.shape)}


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "operator": layer.operator,
        "output_shape": layer.output_shape and list(layer.output_shape),
        "parameters": layer.parameters,
        "bytes": layer.stored_bytes,
        "macs": layer.macs,
    }
