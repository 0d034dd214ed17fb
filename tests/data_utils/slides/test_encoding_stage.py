"""The encoding stage: order, overlap, waiting, errors."""

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_utils.slides import encoding_stage
from data_utils.slides.encoding_stage import AHEAD, EncodingStage
from data_utils.slides.opening import SlideError
from data_utils.slides.tile_reading import TileBatch

PATIENCE = 30.0  # seconds after which a test that waits for another thread has failed


class Immediate(ThreadPoolExecutor):
    """Has finished what it was given when the next batch is asked for."""

    def submit(self, *args):
        future = super().submit(*args)
        wait([future])
        return future


def batch(value, slide=0, error=None):
    pixels = None if error else torch.full((2, 3, 4, 4), value, dtype=torch.uint8)
    return TileBatch(slide, np.full((2, 2), value), pixels, error)


def mean(pixels):
    return pixels.float().mean(dim=(2, 3)).numpy()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(0, 255)), max_size=12))
def test_features_belong_to_their_batches(values):
    batches = [batch(0, error="torn") if value is None else batch(value) for value in values]
    seen = 0
    for given_back, features in EncodingStage(mean)(iter(batches)):
        assert given_back is batches[seen]
        if values[seen] is None:
            with pytest.raises(SlideError, match="torn"):
                features.result()
        else:
            assert (features.result() == values[seen]).all()
        seen += 1
    assert seen == len(values)


def test_encodes_while_the_next_are_read_and_the_last_are_written():
    read = [threading.Event() for _ in range(6)]
    encoded = [threading.Event() for _ in range(6)]

    def reading():
        for number in range(6):
            read[number].set()
            yield batch(number)

    def encode(pixels):
        number = int(pixels[0, 0, 0, 0])
        # Ends only when the following batch is read: without overlap it never would be.
        assert number == 5 or read[number + 1].wait(PATIENCE)
        encoded[number].set()
        return mean(pixels)

    for number, (_, features) in enumerate(EncodingStage(encode)(reading())):
        features.result()
        # While this batch is being written, the encoder goes on with those it has (the last of them waits for
        # the reading of its follower).
        assert encoded[min(number + AHEAD - 1, 5)].wait(PATIENCE)
        assert not any(event.is_set() for event in read[number + AHEAD + 1 :])


@pytest.fixture
def clock(monkeypatch):
    """A list of one number: the time, which only tests move."""
    now = [0.0]
    monkeypatch.setattr(encoding_stage, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_waiting_is_reading_while_the_encoder_has_nothing_to_do(clock, monkeypatch):
    def reading():
        for number in range(5):
            clock[0] += 2.0
            yield batch(number)

    def encode(pixels):
        clock[0] += 100.0
        return mean(pixels)

    monkeypatch.setattr(encoding_stage, "ThreadPoolExecutor", Immediate)
    stage = EncodingStage(encode)
    for _, features in stage(reading()):
        clock[0] += 1000.0  # writing
        features.result()
    assert stage.waited == pytest.approx(5 * 2.0)


def test_reading_beside_a_busy_encoder_is_no_waiting(clock):
    go = threading.Event()

    def reading():
        clock[0] += 2.0
        yield batch(0)
        clock[0] += 50.0
        yield batch(1)
        go.set()

    def encode(pixels):
        assert go.wait(PATIENCE)
        return mean(pixels)

    stage = EncodingStage(encode)
    for _, features in stage(reading()):
        features.result()
    assert stage.waited == pytest.approx(2.0)


def test_waiting_begins_when_the_encoder_ends(clock):
    go, ended = threading.Event(), threading.Event()

    def reading():
        yield batch(0)
        clock[0] += 50.0
        go.set()
        assert ended.wait(PATIENCE)
        clock[0] += 3.0
        wait(futures)
        yield batch(1)

    def encode(pixels):
        assert go.wait(PATIENCE)
        return mean(pixels)

    futures = []
    stage = EncodingStage(encode)
    original = stage._timed

    def timed(item):
        features = original(item)
        ended.set()
        return features

    class Watched(ThreadPoolExecutor):
        def submit(self, *args):
            futures.append(super().submit(*args))
            return futures[-1]

    stage._timed = timed
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding_stage, "ThreadPoolExecutor", Watched)
        for _, features in stage(reading()):
            features.result()
    assert stage.waited == pytest.approx(3.0)


def test_errors_come_after_what_was_encoded_before():
    def encode(pixels):
        if pixels[0, 0, 0, 0] == 2:
            raise RuntimeError("broken")
        return mean(pixels)

    done = []
    with pytest.raises(RuntimeError, match="broken"):
        for given_back, features in EncodingStage(encode)(map(batch, range(6))):
            features.result()
            done.append(int(given_back.corners[0, 0]))
    assert done == [0, 1]


def test_closing_drops_batches_not_begun():
    encoded, go = [], threading.Event()

    def encode(pixels):
        encoded.append(int(pixels[0, 0, 0, 0]))
        assert go.wait(PATIENCE)
        return mean(pixels)

    items = EncodingStage(encode)(map(batch, range(9)))
    _, features = next(items)
    threading.Timer(0.2, go.set).start()
    items.close()
    assert features.result().shape == (2, 3) and len(encoded) <= 1 + AHEAD
    assert not any(thread.name.startswith("encoder") for thread in threading.enumerate())
