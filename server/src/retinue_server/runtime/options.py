"""How ONNX Runtime runs every network."""

import onnxruntime as ort

# Of ONNX Runtime's severities the highest.
_FATAL = 4


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
    # What fails is raised, and the log has it. A line of its own each time is as many as callers make it fail.
    options.log_severity_level = _FATAL
    return options
