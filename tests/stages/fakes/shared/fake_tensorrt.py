"""A TensorRT without a GPU, in three generations. It parses with `onnx`, runs with ONNX Runtime on the fake device memory.

What each generation has and lacks is that of the real bindings: `api-*.json` are records of them, which a test holds these
classes against. The texts it logs are those that TensorRT logs.

`FAKE_TENSORRT` in the environment makes trouble, any of: lacks OPERATOR, no memory, no context, wrong fp16, slow build.
"""

import enum
import json
import os
import re
import time
import weakref

import numpy as np
import onnx
from pycuda import driver

CALLS = driver.CALLS


def trouble():
    return os.environ.get("FAKE_TENSORRT", "")


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    Severity = Severity

    def __init__(self):
        pass

    def log(self, severity, msg):
        raise NotImplementedError


_LOGGERS = []


def only_logger(logger):
    """TensorRT logs to the first one it was given, by a bare pointer."""
    if not _LOGGERS:
        _LOGGERS.append(weakref.ref(logger))
    kept = _LOGGERS[0]()
    assert kept is not None, "TensorRT would log to a logger that was freed"
    return kept


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


DataType = enum.Enum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8 INT64")
_DATA_TYPES = {
    np.dtype(np.float32): DataType.FLOAT,
    np.dtype(np.float16): DataType.HALF,
    np.dtype(np.int32): DataType.INT32,
    np.dtype(np.int64): DataType.INT64,
    np.dtype(np.uint8): DataType.UINT8,
}


class ITensor:
    def __init__(self, name, shape, dtype):
        self.name, self.shape, self.dtype = name, shape, dtype


class ParserError:
    def __init__(self, text, operator):
        self._text, self._operator = text, operator

    def desc(self):
        return self._text


class INetworkDefinition:
    def __init__(self, flags):
        self.flags, self.model, self.inputs, self.outputs = flags, None, [], []

    @property
    def num_inputs(self):
        return len(self.inputs)

    def get_input(self, index):
        return self.inputs[index]


class IInt8EntropyCalibrator2:
    def __init__(self):
        self._is_made = True


class IProgressMonitor:
    def __init__(self):
        self._is_made = True


class Generation:
    """The classes of one version, as attributes of its module."""

    def __init__(self, version, *, bindings, flags, int64, explicit_batch, pools, monitor):
        self.version, self.int64, self.bindings, self.flags = version, int64, bindings, flags
        self.explicit_batch, self.pools, self.monitor = explicit_batch, pools, monitor

    def fill(self, module):
        generation = self
        flags = ["TF32", "DEBUG"] + (["FP16", "INT8"] if self.flags else [])
        creation = ["EXPLICIT_BATCH"] if self.explicit_batch else []
        creation += [] if self.bindings else ["STRONGLY_TYPED"]
        module["BuilderFlag"] = enum.Enum("BuilderFlag", flags)
        module["NetworkDefinitionCreationFlag"] = enum.IntEnum("NetworkDefinitionCreationFlag", creation, start=0)

        class IBuilderConfig:
            def __init__(self):
                self._flags = {module["BuilderFlag"].TF32}
                self._calibrator = self._monitor = None

            def set_flag(self, flag):
                CALLS.append(("set_flag", flag.name))
                self._flags.add(flag)

            def clear_flag(self, flag):
                CALLS.append(("clear_flag", flag.name))
                self._flags.discard(flag)

            if generation.pools:

                def set_memory_pool_limit(self, pool, pool_size):
                    CALLS.append(("set_memory_pool_limit", pool.name, pool_size))

            else:
                max_workspace_size = 0

            if generation.flags:
                int8_calibrator = property(
                    lambda self: self._calibrator, lambda self, value: setattr(self, "_calibrator", value)
                )
            if generation.monitor:
                progress_monitor = property(
                    lambda self: self._monitor, lambda self, value: setattr(self, "_monitor", value)
                )

        class Builder:
            def __init__(self, logger):
                driver.check_thread()
                self._logger = only_logger(logger)

            if generation.flags:
                platform_has_fast_fp16 = True
                platform_has_fast_int8 = not generation.bindings  # a TX2 has none

            def create_network(self, flags=0):
                CALLS.append(("create_network", flags))
                return INetworkDefinition(flags)

            def create_builder_config(self):
                return IBuilderConfig()

            def build_serialized_network(self, network, config):
                CALLS.append(("build_serialized_network",))
                if "no memory" in trouble():
                    self._logger.log(
                        Severity.ERROR,
                        "10: [optimizer.cpp::computeCosts::2011] Error Code 10: Internal Error (Could not find any "
                        "implementation: requested amount of GPU memory (1073741824 bytes) could not be allocated.)",
                    )
                    return None
                if "slow build" in trouble():
                    time.sleep(0.3)
                names = {flag.name for flag in config._flags}
                if "INT8" in names:
                    assert config._calibrator._is_made
                    assert config._calibrator.get_batch_size() == 1
                    assert config._calibrator.read_calibration_cache() is None
                    order = [tensor.name for tensor in network.inputs]
                    while (addresses := config._calibrator.get_batch(order)) is not None:
                        CALLS.append(("batch", len(addresses)))
                    config._calibrator.write_calibration_cache(b"ranges")
                if config._monitor is not None:
                    assert config._monitor._is_made
                    config._monitor.phase_start("Building Engine", None, 2)
                    assert config._monitor.step_complete("Building Engine", 0)
                    config._monitor.phase_finish("Building Engine")
                weights = onnx.load_model_from_string(network.model).graph.initializer
                if any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in weights):
                    names.add("FP16")
                header = {"version": generation.version, "flags": sorted(names)}
                return memoryview(json.dumps(header).encode() + b"\n" + network.model)

        class OnnxParser:
            def __init__(self, network, logger):
                self._network, self._logger, self._errors = network, logger, []

            @property
            def num_errors(self):
                return len(self._errors)

            def get_error(self, index):
                return self._errors[index]

            def parse(self, model, path=None):
                graph = onnx.load_model_from_string(bytes(model)).graph
                CALLS.append(("parse", [node.op_type for node in graph.node].count("QuantizeLinear")))
                lacking = re.findall(r"lacks (\w+)", trouble())
                for number, node in enumerate(graph.node):
                    if node.op_type in lacking:
                        self._logger.log(
                            Severity.ERROR,
                            f"3: getPluginCreator could not find plugin: {node.op_type} version: 1",
                        )
                        self._errors.append(
                            ParserError(
                                f"In node {number} (importFallbackPluginImporter): UNSUPPORTED_NODE: Assertion failed: "
                                f'creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
                                node.op_type,
                            )
                        )
                        return False
                for side, values in (("inputs", graph.input), ("outputs", graph.output)):
                    for value in values:
                        kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                        if generation.bindings and kind == np.uint8:
                            self._errors.append(ParserError("UNSUPPORTED_NODE: uint8 is not supported", ""))
                            return False
                        if kind == np.int64 and not generation.int64:
                            kind = np.dtype(np.int32)
                        shape = tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
                        getattr(self._network, side).append(ITensor(value.name, shape, _DATA_TYPES[kind]))
                self._network.model = bytes(model)
                return True

        class ICudaEngine:
            def __init__(self, model, flags):
                import onnxruntime

                options = onnxruntime.SessionOptions()
                options.log_severity_level = 4
                self._session = onnxruntime.InferenceSession(model, options)
                self._flags = flags
                network = INetworkDefinition(0)
                assert OnnxParser(network, None).parse(model)
                self._tensors = {tensor.name: tensor for tensor in (*network.inputs, *network.outputs)}
                self._inputs = [tensor.name for tensor in network.inputs]
                self._order = list(self._tensors)

            def create_execution_context(self):
                return None if "no context" in trouble() else IExecutionContext(self)

            if generation.bindings:

                @property
                def num_bindings(self):
                    return len(self._order)

                def get_binding_name(self, index):
                    return self._order[index]

                def binding_is_input(self, index):
                    return self._order[index] in self._inputs

                def get_binding_shape(self, index):
                    return self._tensors[self._order[index]].shape

                def get_binding_dtype(self, index):
                    return self._tensors[self._order[index]].dtype

            else:

                @property
                def num_io_tensors(self):
                    return len(self._order)

                def get_tensor_name(self, index):
                    return self._order[index]

                def get_tensor_mode(self, name):
                    return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

                def get_tensor_shape(self, name):
                    return self._tensors[name].shape

                def get_tensor_dtype(self, name):
                    return self._tensors[name].dtype

        class IExecutionContext:
            def __init__(self, engine):
                self._engine, self._addresses = engine, {}

            if generation.bindings:

                def execute_async_v2(self, bindings, stream_handle, input_consumed=None):
                    CALLS.append(("execute_async_v2", len(bindings)))
                    return self._enqueue(dict(zip(self._engine._order, bindings, strict=True)), stream_handle)

            else:

                def set_tensor_address(self, name, memory):
                    CALLS.append(("set_tensor_address", name))
                    self._addresses[name] = memory
                    return True

                def execute_async_v3(self, stream_handle):
                    CALLS.append(("execute_async_v3",))
                    return self._enqueue(self._addresses, stream_handle)

            def _enqueue(self, addresses, stream_handle):
                driver.check_thread()
                driver.stream_at(stream_handle).queue(lambda: self._compute(addresses))
                return True

            def _compute(self, addresses):
                engine = self._engine
                values = {name: self._array(name, addresses[name]) for name in engine._order}
                wanted = {tensor.name: tensor.type for tensor in engine._session.get_inputs()}
                feed = {
                    name: values[name].astype(np.int64) if wanted[name] == "tensor(int64)" else values[name].copy()
                    for name in engine._inputs
                }
                outputs = [name for name in engine._order if name not in engine._inputs]
                for name, value in zip(outputs, engine._session.run(outputs, feed), strict=True):
                    if {"FP16", "INT8"} & set(engine._flags):
                        value = value.astype(np.float16)
                        if "wrong fp16" in trouble():
                            value = value * 1.5
                    values[name][...] = value

            def _array(self, name, address):
                tensor = self._engine._tensors[name]
                kind = next(dtype for dtype, data_type in _DATA_TYPES.items() if data_type is tensor.dtype)
                size = int(np.prod(tensor.shape)) * kind.itemsize
                return driver.bytes_at(address, size).view(kind).reshape(tensor.shape)

        class Runtime:
            def __init__(self, logger):
                driver.check_thread()
                self._logger = only_logger(logger)

            def deserialize_cuda_engine(self, serialized_engine):
                header, _, model = bytes(serialized_engine).partition(b"\n")
                made = json.loads(header)
                if made["version"] != generation.version:
                    self._logger.log(
                        Severity.ERROR,
                        "6: The engine plan file is not compatible with this version of TensorRT, expecting library "
                        f"version {generation.version} got {made['version']}, please rebuild.",
                    )
                    self._logger.log(
                        Severity.ERROR,
                        "4: [runtime.cpp::deserializeCudaEngine::50] Error Code 4: Internal Error (Engine "
                        "deserialization failed.)",
                    )
                    return None
                return ICudaEngine(model, made["flags"])

        if not generation.bindings:
            ParserError.node_operator = lambda self: self._operator
        elif hasattr(ParserError, "node_operator"):
            del ParserError.node_operator
        module.update(
            __version__=self.version,
            init_libnvinfer_plugins=lambda logger, namespace: True,
            **{
                kind.__name__: kind
                for kind in (
                    ILogger, TensorIOMode, DataType, ITensor, ParserError, INetworkDefinition, IBuilderConfig, Builder,
                    OnnxParser, ICudaEngine, IExecutionContext, Runtime,
                )
            },
        )  # fmt: skip
        if self.flags:
            module["IInt8EntropyCalibrator2"] = IInt8EntropyCalibrator2
        if self.pools:
            module["MemoryPoolType"] = MemoryPoolType
        if self.monitor:
            module["IProgressMonitor"] = IProgressMonitor
