"""ONNX Runtime and OpenVINO with one interface; each is imported when it is asked for."""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, get_args

import numpy as np

from convnext_dense.errors import UserError, reason
from convnext_dense.export.metadata import KEY
from convnext_dense.support.optional_packages import optional

EngineName = Literal["auto", "onnxruntime", "openvino"]
ENGINES: tuple[str, ...] = get_args(EngineName)
_ERRORS_ONLY = 3  # a level of ONNX Runtime's log


class Engine(Protocol):
    """A network that is loaded and can be run.

    Attributes:
        name: the engine, and what it runs on.
        metadata_text: JSON text of convnext_dense in the file; ``None`` if it has none.
    """

    name: str
    metadata_text: str | None

    def run(self, images: np.ndarray, sizes: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Run the network.

        Args:
            images: (N, 3, H, W) uint8, red first.
            sizes: (N, 2) int64, the valid (height, width) of each, for a network of one fixed size.

        Returns:
            outputs by name.
        """


def open_model(
    path: str | Path,
    engine: EngineName = "auto",
    threads: int | None = None,
    providers: Sequence[str] | None = None,
) -> Engine:
    """Load an ONNX file.

    Args:
        path: the file.
        engine: ``auto`` is ONNX Runtime, or OpenVINO where only that is installed.
        threads: CPU threads; by default one per core that this process may use.
        providers: what ONNX Runtime runs on, by its names: ``CUDAExecutionProvider``,
            ``TensorrtExecutionProvider``; what they cannot run goes to the next, at last to the CPU.

    Raises:
        UserError: no such file, a damaged one, or an unknown engine or provider.
        MissingPackageError: the engine is not installed.
    """
    if engine not in ENGINES:
        raise UserError(f"engine={engine!r}; use one of {ENGINES}")
    if not Path(path).is_file():
        raise UserError(f"no model at {path}")
    threads = threads or usable_cores()
    if engine == "auto":
        engine = "openvino" if not _installed("onnxruntime") and _installed("openvino") else "onnxruntime"
    if engine == "onnxruntime":
        return OnnxRuntime(path, threads, tuple(providers or ()))
    if providers:
        raise UserError(f"providers={list(providers)} are ONNX Runtime's; OpenVINO runs on the CPU here")
    return OpenVino(path, threads)


def usable_cores() -> int:
    """CPU cores that this process may use, which in a container can be a few of many."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # blocked by an entry ``None`` in ``sys.modules``
        return False


def _library(name: str) -> ModuleType:
    extra = ', or "convnext_dense[runtime]"' if name == "onnxruntime" else ""
    return optional(name, "a model in ONNX", f"{name}{extra}")


class OnnxRuntime:
    """A network in ONNX Runtime; for the arguments see :func:`open_model`."""

    def __init__(self, path: str | Path, threads: int, providers: tuple[str, ...]) -> None:
        library = _library("onnxruntime")
        available = library.get_available_providers()
        if unknown := [name for name in providers if name not in available]:
            raise UserError(f"providers={unknown}: this onnxruntime has {', '.join(available)}")
        options = library.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _ERRORS_ONLY
        chosen = list(dict.fromkeys([*providers, "CPUExecutionProvider"]))
        try:
            self._session = library.InferenceSession(str(path), options, providers=chosen)
        except Exception as error:  # the library has an exception for each fault
            raise UserError(f"{path}: ONNX Runtime cannot load it ({reason(error)})") from None
        self.name = f"onnxruntime {library.__version__} ({self._session.get_providers()[0]})"
        self.metadata_text: str | None = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, images: np.ndarray, sizes: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """See :meth:`Engine.run`."""
        outputs = self._session.run(self._outputs, _feeds(images, sizes))
        return dict(zip(self._outputs, outputs, strict=True))


class OpenVino:
    """A network in OpenVINO, on the CPU; for the arguments see :func:`open_model`."""

    def __init__(self, path: str | Path, threads: int) -> None:
        library = _library("openvino")
        options: dict[str, Any] = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # newer CPUs would use bfloat16
        }
        try:
            core = library.Core()
            network = core.read_model(str(path))
            self._model = core.compile_model(network, "CPU", options)
        except Exception as error:  # RuntimeError, and those of its readers; their last line is the cause
            cause = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise UserError(f"{path}: OpenVINO cannot load it ({cause})") from None
        self.name = f"openvino {library.__version__} (CPU)"
        place = ["framework", KEY]  # where its ONNX reader keeps `metadata_props`
        self.metadata_text = network.get_rt_info(place).astype(str) if network.has_rt_info(place) else None
        self._outputs = [output.get_any_name() for output in self._model.outputs]

    def run(self, images: np.ndarray, sizes: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """See :meth:`Engine.run`."""
        outputs = self._model(_feeds(images, sizes))
        return {name: outputs[name] for name in self._outputs}


def _feeds(images: np.ndarray, sizes: np.ndarray | None) -> Mapping[str, np.ndarray]:
    """Inputs by name."""
    images = np.ascontiguousarray(images)
    return {"images": images} if sizes is None else {"images": images, "sizes": sizes}
