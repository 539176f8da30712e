"""`retinue-export inspect`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from retinue.v1 import manifest_pb2 as pb
from rich.table import Table

from retinue_export.cli.options import HtmlPage, require_writable, version_folder, write_page
from retinue_export.cli.show import console, plain, print_differences, print_json
from retinue_export.inspection import facts as graph_facts
from retinue_export.inspection import manifest_text, report
from retinue_export.inspection.facts import Facts, Port
from retinue_export.inspection.layers import Layer
from retinue_export.quantities import metric, percent


def inspect(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="BUNDLE", help="A version folder, a model's folder, or an ONNX file.", show_default=False
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False,
    html: HtmlPage = None,
) -> None:
    """Show what is in a bundle: inputs and outputs, weights, work for an image, manifest and certificate."""
    if html is not None:
        require_writable(html)
    facts = graph_facts.read(target if target.is_file() else version_folder(target))
    if html is not None:
        write_page(html, report.page(facts))
    if as_json:
        print_json(report.as_json(facts))
        return
    _print_lines(facts)
    if facts.manifest is not None and facts.manifest.parity.outputs:
        parity = facts.manifest.parity
        print_differences(facts.manifest, parity.outputs, parity.images, parity.batch_sizes)
    _print_layers("most multiply-adds", facts, report.heaviest(facts))
    _print_layers("most bytes", facts, report.fattest(facts))


def _print_lines(facts: Facts) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for word, line in (*_graph_lines(facts), *_manifest_lines(facts.manifest)):
        table.add_row(word, plain(line))
    console.print(table)


def _graph_lines(facts: Facts) -> Iterator[tuple[str, str]]:
    checked = " as the manifest says" if facts.manifest is not None else ""
    yield "file", f"{facts.file}, {metric(facts.file_bytes, 'B')}"
    yield "SHA-256", f"{facts.sha256[:16]}...{checked}"
    yield from (("input", _port(port)) for port in facts.inputs)
    yield from (("output", _port(port)) for port in facts.outputs)
    sets = ", ".join(f"{domain} {version}" for domain, version in facts.opsets.items())
    yield "operator sets", f"{sets}; IR version {facts.ir_version}"
    nodes = ", ".join(f"{count} {operator}" for operator, count in facts.operators.items())
    yield "nodes", f"{sum(facts.operators.values())}: {nodes}"
    stored = ", ".join(f"{metric(size, 'B')} in {name}" for name, size in facts.stored_bytes.items())
    yield "parameters", f"{metric(facts.parameters)}; constants take {stored or 'nothing'}"
    if facts.external_files:
        yield "also needs", ", ".join(facts.external_files)
    least = "at least " if facts.uncounted else ""
    yield (
        "work",
        f"{least}{metric(facts.macs)} multiply-adds an image ({least}{metric(2 * facts.macs, 'FLOPs')}), "
        f"those of {', '.join(report.counted(facts)) or 'nothing'}",
    )
    if facts.uncounted:
        yield "not counted", ", ".join(facts.uncounted)


def _manifest_lines(manifest: pb.ModelManifest | None) -> Iterator[tuple[str, str]]:
    if manifest is None:
        return
    yield from manifest_text.facts(manifest).items()
    for figure in manifest.quality:
        yield (
            "quality",
            f"{figure.metric} {figure.value:.4f} on {figure.images} images ({figure.dataset}; {figure.engine}, "
            f"{manifest_text.precision(figure.precision)})",
        )


def _print_layers(title: str, facts: Facts, chosen: list[Layer]) -> None:
    if not chosen:
        return
    table = Table(title=f"layers with the {title}", title_justify="left", box=None)
    for heading in ("layer", "operator", "gives"):
        table.add_column(heading, overflow="fold")
    for heading in ("bytes", "multiply-adds", "of all"):
        table.add_column(heading, justify="right")
    for layer in chosen:
        shape = "?" if layer.output_shape is None else " x ".join(str(n or "?") for n in layer.output_shape)
        table.add_row(
            plain(layer.name),
            plain(layer.operator),
            shape,
            metric(layer.stored_bytes, "B"),
            "unknown" if layer.macs is None else metric(layer.macs),
            percent((layer.macs or 0) / max(1, facts.macs)),
        )
    console.print(table)


def _port(port: Port) -> str:
    shape = "any shape" if port.shape is None else f"[{', '.join(map(str, port.shape))}]"
    return f"{port.name} {port.number_format} {shape}"
