"""The kernels' bytes are the codec's: their own source, compiled by the host's compiler, beside NumPy; and the launches."""

import ctypes
import shutil
from pathlib import Path

import numpy as np
import pytest
from gpu_kernels import GpuKernels, build
from host_kernels import compile_kernels, compiler

from splitrail.stages.codec import encode
from splitrail.stages.engines.cuda_devices import NoCudaError, cuda_devices
from splitrail.stages.engines.cuda_kernels import BLOCK, MAX_BLOCKS, grid_of, source

ZERO_KEY = 0x80000000


@pytest.fixture(scope="module")
def kernels() -> ctypes.CDLL:
    if compiler() is None:
        pytest.skip("no C compiler with half floats here")
    return compile_kernels(source())


def address(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def launch(kernels: ctypes.CDLL, name: str, num_elements: int, *arguments: object) -> None:
    blocks, _ = grid_of(num_elements)
    getattr(kernels, f"launch_{name}")(blocks, BLOCK, *arguments)


def quantised(kernels: ctypes.CDLL, x: np.ndarray) -> dict[str, np.ndarray]:
    keys = np.full(2, ZERO_KEY, np.uint32)
    codes, scale, zero_point = np.zeros(x.shape, np.uint8), np.zeros(1, np.float32), np.zeros(1, np.uint8)
    size = ctypes.c_longlong(x.size)
    launch(kernels, "range", x.size, address(x), size, address(keys))
    outputs = (address(codes), address(scale), address(zero_point))
    launch(kernels, "quantise", x.size, address(x), size, address(keys), *outputs)
    return {"_uint8": codes, "_scale": scale, "_zero_point": zero_point}


def tensors() -> list[np.ndarray]:
    """All kinds of ranges, and the values on which roundings hang."""
    found = []
    for seed in range(120):
        random = np.random.default_rng(seed)
        x = random.standard_normal(random.integers(1, 6000)) * 10 ** random.uniform(-30, 30)
        x += random.choice([-1, 0, 1]) * 10 ** random.uniform(-3, 5)
        found.append(x.astype(np.float32))
    steps = np.arange(-128, 128, 0.5, dtype=np.float32)
    found += [steps, steps + 0.25, steps * np.float32(1 / 3), np.abs(steps), -np.abs(steps)]
    found += [np.zeros(700, np.float32), np.full(3, -0.0, np.float32), np.full(9, 7.25, np.float32)]
    tiny = np.finfo(np.float32).tiny
    found += [np.array([0, tiny], np.float32), np.array([-tiny, 255 * tiny, 300 * tiny], np.float32)]
    found += [np.array([1e-42, -1e-44, 0], np.float32), np.array([3.4e38, 1.0], np.float32)]
    found.append(np.random.default_rng(9).standard_normal(300_001).astype(np.float32))
    return found


def test_uint8_is_the_codecs_to_the_byte(kernels: ctypes.CDLL) -> None:
    for number, x in enumerate(tensors()):
        expected = encode(x, "uint8")
        for suffix, array in quantised(kernels, x).items():
            assert array.tobytes() == expected[suffix].tobytes(), (number, suffix)


def test_every_code_and_every_tie_is_met(kernels: ctypes.CDLL) -> None:
    """The ranges above do exercise what they are there for."""
    steps = np.arange(-128, 128, 0.5, dtype=np.float32)
    codes = quantised(kernels, np.ascontiguousarray(steps))["_uint8"]
    assert set(codes) == set(range(256))
    scale = encode(steps, "uint8")["_scale"][0]
    halves = np.abs(np.modf(steps * (np.float32(1) / scale))[0])
    assert (np.abs(halves - 0.5) < 1e-3).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 255, 70_000])
def test_a_value_that_is_not_finite_makes_a_scale_that_is_none(kernels: ctypes.CDLL, bad: float, place: int) -> None:
    x = np.ones(70_001, np.float32)
    x[place] = bad
    assert not np.isfinite(quantised(kernels, x)["_scale"][0])


def test_a_range_that_is_too_wide_makes_a_scale_that_is_none(kernels: ctypes.CDLL) -> None:
    assert not np.isfinite(quantised(kernels, np.array([3.4e38, -3.4e38], np.float32))["_scale"][0])


def test_fp16_is_the_codecs_to_the_byte(kernels: ctypes.CDLL) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    exact = every[np.isfinite(every)].astype(np.float32)
    between = np.concatenate([np.nextafter(exact, np.float32(1e9)), (exact + np.roll(exact, 1)) / 2]).astype(np.float32)
    for x in (*tensors(), exact, between, np.array([65519.9, 65520, 1e30, -1e30], np.float32)):
        halves = np.zeros(x.shape, np.float16)
        launch(kernels, "narrow", x.size, address(x), ctypes.c_longlong(x.size), address(halves))
        assert halves.tobytes() == encode(x, "fp16")["_fp16"].tobytes()


def test_a_pictures_bytes_become_floats(kernels: ctypes.CDLL) -> None:
    octets = np.random.default_rng(0).integers(0, 256, 200_000, dtype=np.uint8)
    x = np.zeros(octets.shape, np.float32)
    launch(kernels, "widen", x.size, address(octets), ctypes.c_longlong(x.size), address(x))
    assert np.array_equal(x, octets.astype(np.float32))


@pytest.mark.parametrize("num_elements", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 76_800, 307_200, 10_000_000])
def test_the_launch_covers_every_element_once(num_elements: int) -> None:
    blocks, one = grid_of(num_elements)
    assert one == 1
    assert 1 <= blocks <= MAX_BLOCKS
    threads = blocks * BLOCK
    # No thread without work but in the last block, unless there is work for several rounds.
    assert threads - num_elements < BLOCK or threads == MAX_BLOCKS * BLOCK
    visits = np.zeros(min(num_elements, 1 << 20), np.int32)
    for first in range(min(threads, len(visits))):
        visits[first::threads] += 1
    assert (visits == 1).all()


def test_the_constants_are_the_codecs_to_the_bit() -> None:
    defines = dict(line.split()[1:] for line in source().splitlines() if line.startswith("#define"))
    assert np.float32(float.fromhex(defines["PER_CODE"].rstrip("f"))) == np.float32(1 / 255)
    assert np.float32(float.fromhex(defines["SMALLEST_SCALE"].rstrip("f"))) == np.finfo(np.float32).tiny


@pytest.mark.slow
def test_nvcc_takes_the_source(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc here")
    assert build(nvcc, tmp_path, "sm_87").stat().st_size > 0


@pytest.mark.gpu
def test_on_a_gpu_the_bytes_are_the_codecs(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    try:
        cuda_devices()
    except NoCudaError as error:
        pytest.skip(str(error))
    if nvcc is None:
        pytest.skip("no nvcc here")
    gpu = GpuKernels(build(nvcc, tmp_path))
    for number, x in enumerate(tensors()):
        for wire, parts in (("uint8", gpu.uint8(x)), ("fp16", gpu.fp16(x))):
            for suffix, array in encode(x, wire).items():
                assert parts[suffix].tobytes() == array.tobytes(), (number, suffix)
