"""How ONNX Runtime runs every network."""

import onnxruntime as ort


def session_options(threads: int, *, spinning: bool = False) -> ort.SessionOptions:
    """How all sessions run.

    Args:
        threads: Of one run.
        spinning: Whether they wait for each other within a run without sleeping.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    if spinning:
        # Between the operators of a run only.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    else:
        # Spinning threads of one run would take the cores of the others.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
