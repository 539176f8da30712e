"""Foreign ONNX files, as other exporters write them, wrapped into bundles.

`reading` opens a file; `ultralytics`, `hugging_face` and `plain`, each a `layout`, say what its input and outputs mean;
`heads` and `detection_heads` are put behind it; `wrapping` makes the bundle's graph and `adopted` the bundle. Only
`cli` imports this.
"""
