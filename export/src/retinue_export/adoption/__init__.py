"""Foreign ONNX files, as other exporters write them, wrapped into bundles.

`reading` opens a file, `layouts` says what its input and outputs mean, `heads` are what is put behind it, `wrapping`
makes the bundle's graph and `adopted` the bundle. Only `cli` imports this.
"""
