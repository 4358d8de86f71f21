"""Record what TensorRT's published bindings tell of themselves: `record.py WHEEL >api-VERSION.json`.

    pip download --no-deps tensorrt_cu12_bindings==11.4.0.106

The bindings (1 MB) load without TensorRT itself (2 GB) and without a GPU: a compiler makes empty stand-ins of the libraries
they want. Nothing of it can be called, but its classes, members and signatures are all there.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CLASSES = [
    "Builder",
    "IBuilderConfig",
    "INetworkDefinition",
    "OnnxParser",
    "ParserError",
    "Runtime",
    "ICudaEngine",
    "IExecutionContext",
    "IInt8EntropyCalibrator2",
    "IProgressMonitor",
    "ILogger",
    "ITensor",
    "BuilderFlag",
    "NetworkDefinitionCreationFlag",
    "DataType",
    "TensorIOMode",
    "MemoryPoolType",
]
ENTRIES = [
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
]
_PREFIXES = ("tensorrt_bindings.tensorrt.", "typing_extensions.", "typing.", "collections.abc.")


def record(tensorrt):
    """The module as JSON: an enumeration as its members, a class as its members with their signatures."""
    classes = {}
    for name in CLASSES:
        kind = getattr(tensorrt, name, None)
        if kind is None:
            continue
        if hasattr(kind, "__members__"):
            classes[name] = sorted(kind.__members__)
            continue
        classes[name] = members = {}
        for member in dir(kind):
            value = getattr(kind, member)
            lines = [
                line.strip() for line in (value.__doc__ or "").splitlines() if f"{member}(" in line and "->" in line
            ]
            if member.startswith("__") and not (member == "__init__" and lines):
                continue
            members[member] = [_plain(line) for line in lines] if callable(value) else "property"
    functions = [name for name in dir(tensorrt) if name.startswith("init_")]
    return {"version": tensorrt.__version__, "functions": functions, "classes": classes}


def _plain(signature):
    for prefix in _PREFIXES:
        signature = signature.replace(prefix, "")
    return re.sub(r"^\d+\. ", "", signature)


def main():
    if os.environ.get("RECORDING"):
        import tensorrt_bindings

        print(json.dumps(record(tensorrt_bindings), indent=0))
        return
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(sys.argv[1]).extractall(folder)
        (binary,) = Path(folder).glob("*/tensorrt.so")
        code = "".join(f"void *{entry}() {{ return 0; }}\n" for entry in ENTRIES).encode()
        for library in sorted(
            set(re.findall(rb"libnv(?:infer|infer_plugin|onnxparser)\.so\.\d+", binary.read_bytes()))
        ):
            path = f"{folder}/{library.decode()}"
            subprocess.run(["cc", "-shared", "-fPIC", "-w", "-xc", "-", "-o", path], input=code, check=True)
        environment = {**os.environ, "RECORDING": "1", "LD_LIBRARY_PATH": folder, "PYTHONPATH": folder}
        subprocess.run([sys.executable, __file__], env=environment, check=True)


if __name__ == "__main__":
    main()
