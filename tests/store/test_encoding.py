"""Lossy encodings: worked by hand, and their bounds for any values."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from store.choices import Encoding
from store.encoding import ChannelAxis, FloatArray, decode, encode, largest_error

SCALED = (Encoding.UINT8, Encoding.FLOAT8)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
SHAPES = st.one_of(
    st.tuples(*[st.integers(1, 4)] * 3),
    st.tuples(st.integers(0, 6), st.integers(1, 4)),
    st.tuples(st.integers(0, 3), st.just(9), st.integers(1, 3)),
)
VALUES = SHAPES.flatmap(
    lambda shape: st.one_of(
        arrays(np.float32, shape, elements=FINITE),
        arrays(np.float32, shape, elements=st.floats(-8, 8, width=32)),
        # Subnormal numbers, and ones with few bits between them.
        arrays(np.float32, shape, elements=st.floats(-(2.0**-140), 2.0**-140, width=32)),
        arrays(np.float32, shape, elements=st.floats(1000, 1000 + 2.0**-8, width=32)),
    )
)
AXES = st.sampled_from([0, -1])


def coded(
    values: FloatArray, encoding: Encoding, axis: ChannelAxis = -1
) -> tuple[FloatArray, float]:
    """Values encoded and decoded, and their largest error."""
    payload, ranges = encode(values, encoding, axis)
    assert payload.dtype.name == encoding.payload_dtype
    assert payload.shape == values.shape
    assert (ranges is not None) == encoding.has_ranges
    decoded = decode(payload, ranges, encoding, axis)
    assert decoded.dtype == (np.float16 if encoding is Encoding.FLOAT16 else np.float32)
    return decoded, largest_error(values, decoded, ranges, axis)


def column(*values: float) -> npt.NDArray[np.float32]:
    """Values at places of one channel."""
    return np.array(values, np.float32)[:, None]


class TestByHand:
    def test_bfloat16_rounds_to_nearest_and_ties_to_even(self):
        # Between 1 and 2 a step is 2^-7: 1 + 2^-8 and 1 + 3 * 2^-8 lie midway.
        values = column(1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1.5, 0.0)
        payload, _ = encode(values, Encoding.BFLOAT16, -1)
        assert payload[:, 0].tolist() == [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0xBFC0, 0]
        decoded, error = coded(values, Encoding.BFLOAT16)
        assert decoded[:, 0].tolist() == [1, 1, 1 + 2**-6, 1 + 2**-7, -1.5, 0]
        assert error == pytest.approx(2**-8 / (1 + 2**-8))

    def test_bfloat16_has_a_finite_value_for_the_greatest_float32(self):
        greatest = float(np.finfo(np.float32).max)
        decoded, error = coded(column(greatest, -greatest), Encoding.BFLOAT16)
        assert decoded[:, 0].tolist() == [(2 - 2**-7) * 2.0**127, -(2 - 2**-7) * 2.0**127]
        assert error < Encoding.BFLOAT16.max_error

    def test_uint8_divides_each_channels_range_in_255_steps(self):
        values = np.array([[0.0, -255.0], [5.1, 255.0], [2.5499, 0.4]], np.float32)
        payload, ranges = encode(values, Encoding.UINT8, -1)
        # Channel 0: steps of 0.02. Channel 1: steps of 2, so that 0.4 is level 127.7.
        assert payload.tolist() == [[0, 0], [255, 255], [127, 128]]
        assert ranges is not None
        assert ranges.tolist() == [[0, np.float32(5.1)], [-255, 255]]
        decoded = decode(payload, ranges, Encoding.UINT8, -1)
        assert decoded[2].tolist() == pytest.approx([2.54, 1.0])
        assert largest_error(values, decoded, ranges, -1) == pytest.approx(0.6 / 255)

    def test_a_maps_channel_is_its_first_axis(self):
        values = np.array([[[0.0, 510.0]], [[1.0, 1.4]]], np.float32)
        payload, ranges = encode(values, Encoding.UINT8, 0)
        assert payload.tolist() == [[[0, 255]], [[0, 255]]]
        assert ranges is not None
        assert ranges.tolist() == [[0, 510], [1, np.float32(1.4)]]
        assert np.array_equal(decode(payload, ranges, Encoding.UINT8, 0), values)

    def test_float8_scales_the_largest_magnitude_to_448(self):
        # e4m3: 448 = 0x7e, 1 = 0x38; between 16 and 32 a step is 2, so 17 is a tie and goes to 16.
        payload, ranges = encode(column(-896.0, 2.0, 34.0, 0.0), Encoding.FLOAT8, -1)
        assert payload[:, 0].tolist() == [0xFE, 0x38, 0x58, 0]
        assert ranges is not None
        assert ranges.tolist() == [[0, 896]]
        decoded = decode(payload, ranges, Encoding.FLOAT8, -1)
        assert decoded[:, 0].tolist() == [-896, 2, 32, 0]

    def test_float8_is_worst_midway_below_its_greatest_value(self):
        # 416 is the value before 448: 432 lies midway.
        decoded, error = coded(column(448.0, 432.0), Encoding.FLOAT8)
        assert decoded[:, 0].tolist() == [448, 448]
        assert error == pytest.approx(1 / 28)

    def test_float16_that_overflows_breaks_its_bound(self):
        _, error = coded(column(65504.0), Encoding.FLOAT16)
        assert error == 0
        _, error = coded(column(7e4), Encoding.FLOAT16)
        assert error == np.inf

    def test_an_error_counts_against_its_own_channel(self):
        values = np.array([[1.0, 100.0]], np.float32)
        ranges = np.array([[0, 1], [0, 100]], np.float32)
        decoded = np.array([[1.0, 101.0]], np.float32)
        assert largest_error(values, decoded, ranges, -1) == pytest.approx(0.01)
        assert largest_error(values, decoded[:, ::-1], ranges, -1) == pytest.approx(100)

    @pytest.mark.parametrize("encoding", SCALED)
    def test_a_row_without_values_has_ranges_of_zero(self, encoding: Encoding):
        for shape in ((0, 3), (0, 9, 3)):
            payload, ranges = encode(np.zeros(shape, np.float32), encoding, -1)
            assert ranges is not None
            assert not ranges.any()
            assert ranges.shape == (3, 2)
            assert decode(payload, ranges, encoding, -1).shape == shape


@pytest.mark.parametrize("encoding", list(Encoding))
class TestEvery:
    @given(values=VALUES, axis=AXES)
    @example(values=column(-3.4028234e38, 3.4028234e38, 0.0), axis=-1)
    @example(values=column(1e-45, 3e-45, 0.0), axis=-1)
    @example(values=np.full((2, 3, 3), 7.1, np.float32), axis=0)
    def test_stays_within_its_bound_and_repeats_itself(
        self, encoding: Encoding, values: npt.NDArray[np.float32], axis: ChannelAxis
    ):
        if encoding is Encoding.FLOAT16:
            values = values.clip(-65504.0, 65504.0)
        decoded, error = coded(values, encoding, axis)
        assert np.isfinite(decoded).all()
        assert error <= encoding.max_error
        again, _ = coded(decoded, encoding, axis)
        assert np.array_equal(again, decoded)

    @given(values=VALUES, axis=AXES)
    def test_zero_stays_zero_after_a_relu(
        self, encoding: Encoding, values: npt.NDArray[np.float32], axis: ChannelAxis
    ):
        values = values.clip(min=0)
        decoded, _ = coded(values, encoding, axis)
        assert (decoded[values == 0] == 0).all()

    @given(count=st.integers(0, 3), value=FINITE)
    def test_a_constant_channel_is_exact_in_the_scaled_ones(
        self, encoding: Encoding, count: int, value: float
    ):
        values = np.full((count, 2), value, np.float32)
        decoded, _ = coded(values, encoding)
        assert encoding not in SCALED or np.array_equal(decoded, values)

    def test_reads_half_precision_and_read_only_arrays(self, encoding: Encoding):
        given_values = np.linspace(-4, 4, 24, dtype=np.float16).reshape(2, 3, 4)
        given_values.flags.writeable = False
        for axis in (0, -1):
            payload, ranges = encode(given_values, encoding, axis)
            widened, _ = encode(given_values.astype(np.float32), encoding, axis)
            assert np.array_equal(payload, widened)
            payload.flags.writeable = False
            decoded = decode(payload, ranges, encoding, axis)
            assert largest_error(given_values, decoded, ranges, axis) <= encoding.max_error


@given(values=arrays(np.float32, (12, 2), elements=st.floats(-100, 100, width=32)))
def test_uint8_is_off_by_at_most_half_a_step(values: npt.NDArray[np.float32]):
    decoded, _ = coded(values, Encoding.UINT8)
    half_step = np.ptp(values.astype(np.float64), axis=0) / 510
    assert (np.abs(decoded - values) <= half_step + 2.0**-23 * np.abs(values).max(0)).all()


@given(values=arrays(np.float32, (12, 2), elements=st.floats(-100, 100, width=32)))
def test_float8_is_within_a_sixteenth_of_each_value(values: npt.NDArray[np.float32]):
    decoded, _ = coded(values, Encoding.FLOAT8)
    floor = 2.0**-10 / 448 * np.abs(values).max(0)
    allowed = np.maximum(np.abs(values) / 16, floor) * (1 + 2.0**-20)
    assert (np.abs(decoded - values) <= allowed + 2.0**-149).all()


def test_maps_and_places_are_coded_alike():
    values = np.random.default_rng(0).normal(size=(5, 8, 9)).astype(np.float32)
    at_places = values.reshape(5, -1).T
    for encoding in Encoding:
        by_map, by_places = encode(values, encoding, 0), encode(at_places, encoding, -1)
        assert np.array_equal(by_map[0].reshape(5, -1).T, by_places[0])
        found: list[Any] = [decode(*by_map, encoding, 0), decode(*by_places, encoding, -1)]
        assert np.array_equal(found[0].reshape(5, -1).T, found[1])
