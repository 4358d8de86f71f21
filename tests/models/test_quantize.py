"""The graph's wire forms and the codec's are the same bytes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from splitrail.models.quantize import wire_forms
from splitrail.stages.bundle import WIRE_SUFFIXES
from splitrail.stages.codec import decode, encode

FLOATS = st.one_of(
    st.floats(-100, 100, width=32),
    st.floats(-(2.0**-100), 2.0**-100, width=32),
    st.floats(-(2.0**100), 2.0**100, width=32),
    st.sampled_from([0.0, -0.0, 1.0, 0.5, 65504.0, 65520.0, -70000.0]),
)
NAMES = [suffix for suffixes in WIRE_SUFFIXES.values() for suffix in suffixes]


def forms_of(x: np.ndarray) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in zip(NAMES, wire_forms(torch.from_numpy(x)), strict=True)}


@settings(max_examples=300, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.just(1), st.integers(1, 4), st.integers(1, 5), st.integers(1, 9)), elements=FLOATS)
)
def test_every_form_has_the_codecs_bytes(x: np.ndarray) -> None:
    forms = forms_of(x)
    for wire in WIRE_SUFFIXES:
        for suffix, expected in encode(x, wire).items():
            assert forms[suffix].dtype == expected.dtype
            assert forms[suffix].shape == expected.shape
            assert forms[suffix].tobytes() == expected.tobytes(), suffix


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_large_tensors_too(scale: float) -> None:
    x = (np.random.default_rng(0).standard_normal((1, 64, 25, 34)) * scale).astype(np.float32)
    forms = forms_of(x)
    for wire in ("fp16", "uint8"):
        for suffix, expected in encode(x, wire).items():
            assert forms[suffix].tobytes() == expected.tobytes(), suffix


@pytest.mark.parametrize("constant", [0.0, 3.7, -2.5e-3])
def test_a_constant_tensor_is_kept(constant: float) -> None:
    x = np.full((1, 2, 3, 4), constant, np.float32)
    forms = forms_of(x)
    decoded = decode({suffix: forms[suffix] for suffix in WIRE_SUFFIXES["uint8"]}, "uint8")
    np.testing.assert_allclose(decoded, x, rtol=1e-6, atol=0)
