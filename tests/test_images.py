"""Safe decoding, and tiling against the model card's own listing, rewritten here as an independent oracle."""

from __future__ import annotations

import io
import random
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sailctl.core.errors import SampleError
from sailctl.core.images import checked_size, choose_grid, decode, image_size, num_tiles, tile

LIMIT = 1_000_000


# --- the oracle: `dynamic_preprocess` of the SAIL-VL-1.6 model card -------------------------------------------------


def card_ratio(aspect, ratios, width, height, size):
    best_diff, best = float("inf"), (1, 1)
    for ratio in ratios:
        diff = abs(aspect - ratio[0] / ratio[1])
        if diff < best_diff:
            best_diff, best = diff, ratio
        elif diff == best_diff and width * height > 0.5 * size * size * ratio[0] * ratio[1]:
            best = ratio
    return best


def card_ratios(low, high):
    ratios = set(
        (i, j)
        for n in range(low, high + 1)
        for i in range(1, n + 1)
        for j in range(1, n + 1)
        if i * j <= high and i * j >= low
    )
    return sorted(ratios, key=lambda x: x[0] * x[1])


def in_lines_first(image, size):
    """Pillow's bicubic as it was until version 12 (compared with 11.3): later ones begin with the shorter way."""
    return image.resize((size[0], image.height)).resize(size)


def card_preprocess(image, ratios, size, use_thumbnail):
    columns, rows = card_ratio(image.size[0] / image.size[1], ratios, *image.size, size)
    resized = in_lines_first(image, (size * columns, size * rows))
    parts = []
    for i in range(columns * rows):
        left, top = (i % columns) * size, (i // columns) * size
        parts.append(resized.crop((left, top, left + size, top + size)))
    if use_thumbnail and len(parts) != 1:
        parts.append(in_lines_first(image, (size, size)))
    return parts


def card_pixels(parts, size):
    """What the card's transform makes of the parts before normalising: RGB, bicubic to the same size, (I, 3, S, S)."""
    resized = [part.convert("RGB").resize((size, size), Image.BICUBIC) for part in parts]
    return np.stack([np.asarray(part).transpose(2, 0, 1) for part in resized])


def noise(width, height, seed=0):
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_grid_equals_the_model_card_on_random_sizes():
    rng = random.Random(0)
    limits = [(1, 8), (1, 10), (1, 12), (1, 40), (2, 10), (4, 6), (12, 12), (30, 40), (1, 1)]
    oracle = {limit: card_ratios(*limit) for limit in limits}
    ties = multi = largest = 0
    for index in range(6000):
        low, high = limits[index % len(limits)]
        if index % 3 == 0:  # equal sides, simple ratios: where ties are
            unit = rng.randint(10, 900)
            width, height = unit * rng.randint(1, 8), unit * rng.randint(1, 8)
        else:
            width, height = rng.randint(1, 4000), rng.randint(1, 4000)
        size = rng.choice([112, 448])
        expected = card_ratio(width / height, oracle[low, high], width, height, size)
        assert choose_grid(width, height, min_tiles=low, max_tiles=high, tile_size=size) == expected
        difference = abs(width / height - expected[0] / expected[1])
        ties += sum(abs(width / height - c / r) == difference for c, r in oracle[low, high]) > 1
        multi += expected != (1, 1)
        largest = max(largest, expected[0] * expected[1])
    assert ties > 1000 and multi > 3000 and largest == 40  # the interesting cases occurred


def test_a_tie_goes_to_the_larger_grid_only_above_half_its_area():
    options = {"min_tiles": 1, "max_tiles": 4, "tile_size": 100}
    assert choose_grid(141, 141, **options) == (1, 1)  # 19881 pixels, half of 2x2 tiles is 20000
    assert choose_grid(142, 142, **options) == (2, 2)  # 20164
    assert choose_grid(100, 200, **options) == (1, 2)
    # exactly half is not more than half
    assert choose_grid(200, 200, min_tiles=1, max_tiles=8, tile_size=200 * 2**0.5 / 2) == (1, 1)


def differences(found, expected):
    """How many values differ by 0, 1 and 2 of 255, none by more; shape, type and layout are checked on the way."""
    assert found.dtype == np.uint8 and found.flags.c_contiguous and found.shape == expected.shape
    counts = np.bincount(np.abs(found.astype(np.int16) - expected).ravel(), minlength=3)
    assert len(counts) == 3
    return counts


def test_pixels_are_the_model_card_s_on_random_sizes():
    """Measured on this noise, the hardest there is: 0.49% of the values differ by 1, 5.5 in a million by 2."""
    rng = random.Random(1)
    size, ratios, counts = 16, {high: card_ratios(1, high) for high in (1, 8, 10, 40)}, set()
    total = np.zeros(3, dtype=np.int64)
    for index in range(2000):
        high = rng.choice([1, 8, 10, 40])
        image = noise(rng.randint(1, 120), rng.randint(1, 120), index)
        thumbnail = rng.random() < 0.8
        expected = card_pixels(card_preprocess(image, ratios[high], size, thumbnail), size)
        found = tile(image, tile_size=size, min_tiles=1, max_tiles=high, thumbnail=thumbnail)
        total += differences(found, expected)
        count = num_tiles(*image.size, tile_size=size, min_tiles=1, max_tiles=high, thumbnail=thumbnail)
        assert count == len(found)
        counts.add(count)
    assert 41 in counts and 1 in counts and len(counts) > 20
    assert total[1] < 0.012 * total.sum() and total[2] < 2e-5 * total.sum()


def test_pixels_are_the_model_card_s_at_full_tile_size():
    """Measured: at most 0.83% of the values differ by 1, 3.1 in a million by 2."""
    for width, height, high in [(741, 500, 10), (451, 300, 10), (1280, 960, 10), (2400, 1500, 40), (40, 3000, 10)]:
        image = noise(width, height)
        expected = card_pixels(card_preprocess(image, card_ratios(1, high), 448, True), 448)
        found = tile(image, tile_size=448, min_tiles=1, max_tiles=high, thumbnail=True)
        total = differences(found, expected)
        assert total[1] < 0.012 * total.sum() and total[2] < 2e-5 * total.sum()


def test_a_picture_of_the_very_size_stays_as_it_is():
    for width, columns in ((448, 1), (1344, 3)):
        image = noise(width, 448)
        found = tile(image, tile_size=448, min_tiles=1, max_tiles=3, thumbnail=False)
        np.testing.assert_array_equal(np.concatenate(list(found), axis=2), np.asarray(image).transpose(2, 0, 1))
        assert len(found) == columns


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_grid_stays_within_its_limits(width, height, first, second):
    low, high = min(first, second), max(first, second)
    columns, rows = choose_grid(width, height, min_tiles=low, max_tiles=high, tile_size=448)
    assert low <= columns * rows <= high


def test_grid_search_is_cheap():
    choose_grid(10, 10, min_tiles=1, max_tiles=40, tile_size=448)
    start = time.perf_counter()
    for width in range(1000):
        choose_grid(700 + width, 333, min_tiles=1, max_tiles=40, tile_size=448)
    assert time.perf_counter() - start < 1.0  # 13 µs each where this was written; the listing takes 5 ms


# --- decoding ---------------------------------------------------------------------------------------------------------


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_header(width, height, rows=b""):
    """A PNG whose header announces any size, whatever follows."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def reason(data, limit=LIMIT):
    with pytest.raises(SampleError) as caught:
        decode(data, max_pixels=limit)
    return caught.value.reason, caught.value.detail


def test_plain_formats_decode_to_rgb():
    image = noise(20, 10)
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        found = decode(encoded(image, kind), max_pixels=LIMIT)
        assert found.mode == "RGB" and np.array_equal(np.asarray(found), np.asarray(image))
    for kind in ("JPEG", "WEBP", "GIF"):
        assert decode(encoded(image, kind), max_pixels=LIMIT).size == (20, 10)
    assert image_size(encoded(image, "JPEG")) == (20, 10)


def test_header_is_checked_before_decoding_and_pillow_limit_is_not_relied_on(monkeypatch):
    bomb = png_header(60000, 60000)
    for pillow_limit in (None, 1000, 10**12):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            kind, detail = reason(bomb)
            assert kind == "image_too_large" and "3600000000" in detail and str(LIMIT) in detail
            # larger than Pillow's limit, within ours: decoded
            assert decode(encoded(noise(60, 40)), max_pixels=2400).size == (60, 40)
        assert pillow_limit == Image.MAX_IMAGE_PIXELS
    assert reason(encoded(noise(60, 40)), 2399)[0] == "image_too_large"


def test_lying_headers_are_bad_images():
    honest = noise(64, 48)
    assert reason(png_header(500, 500, b"\0" * 100))[0] == "bad_image"
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 3}):
        jpeg = bytearray(encoded(honest, "JPEG", **options))
        frame = jpeg.index(b"\xff\xc2" if "progressive" in options else b"\xff\xc0")
        jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 900, 900)  # announces 900x900, holds 64x48
        assert reason(bytes(jpeg))[0] == "bad_image", options
        jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 80, 64)
        assert reason(bytes(jpeg))[0] == "bad_image", options
        jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
        assert reason(bytes(jpeg))[0] == "image_too_large"
    cut = encoded(noise(200, 200), "JPEG")
    assert reason(cut[: len(cut) // 2] + b"\xff\xd9")[0] == "bad_image"  # cut, then ended as if complete


def test_honest_grey_jpegs_are_not_taken_for_early_ends():
    for options in ({}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 3}, {"optimize": True}):
        for mode, grey in (("RGB", (128, 128, 128)), ("L", 128)):
            for size in ((64, 64), (61, 47), (1, 1), (400, 300)):
                image = Image.new(mode, size, grey)
                if size[0] > 100:
                    image.paste(noise(150, 100).convert(mode), (20, 30))
                data = encoded(image, "JPEG", **options)
                assert Image.open(io.BytesIO(data)).getpixel((size[0] - 1, size[1] - 1)) == grey
                assert decode(data, max_pixels=LIMIT).size == size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_truncated_files_are_errors(kind, share):
    data = encoded(noise(80, 60), kind)
    cut = data[: int(len(data) * share)]
    assert reason(cut)[0] == "bad_image"
    with pytest.raises(SampleError, match="bad_image"):
        checked_size(cut, max_pixels=LIMIT)


def test_whole_files_are_measured_undecoded_and_odd_ends_are_decoded(monkeypatch):
    whole = [encoded(noise(80, 60), kind, **options) for kind, options in
             (("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("GIF", {}))]  # fmt: skip
    assert checked_size(whole[0] + b"more", max_pixels=LIMIT) == (80, 60), "decoders stop at the marker"
    assert checked_size(encoded(noise(80, 60), "BMP"), max_pixels=LIMIT) == (80, 60)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("decoded"))
    assert [checked_size(data, max_pixels=LIMIT) for data in whole] == [(80, 60)] * 5
    with pytest.raises(SampleError, match="image_too_large"):
        checked_size(whole[0], max_pixels=4799)


@pytest.mark.parametrize(
    "data", [b"", b"this is text", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n", bytes(1000)]
)
def test_what_is_no_image_is_a_bad_image(data):
    kind, detail = reason(data)
    assert kind == "bad_image" and detail and "\n" not in detail


def test_alpha_is_composited_on_white():
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[0, 0] = (255, 0, 0, 255)
    pixels[0, 1] = (0, 0, 255, 0)
    pixels[1, 0] = (0, 0, 0, 128)
    found = np.asarray(decode(encoded(Image.fromarray(pixels)), max_pixels=LIMIT))
    assert found[0, 0].tolist() == [255, 0, 0] and found[0, 1].tolist() == [255, 255, 255]
    assert found[1, 0].tolist() == [127, 127, 127]
    grey = Image.merge("LA", (Image.new("L", (1, 1), 9), Image.new("L", (1, 1), 0)))
    assert np.asarray(decode(encoded(grey), max_pixels=LIMIT))[0, 0].tolist() == [255, 255, 255]


def test_palette_with_and_without_transparency():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    found = np.asarray(decode(encoded(palette), max_pixels=LIMIT))
    assert found[0].tolist() == [[10, 20, 30], [200, 100, 50]]
    found = np.asarray(decode(encoded(palette, transparency=0), max_pixels=LIMIT))
    assert found[0].tolist() == [[255, 255, 255], [200, 100, 50]]


def test_sixteen_bit_keeps_the_high_byte():
    grey = Image.fromarray(np.array([[0, 256 * 7 + 200, 65535]], np.uint16))
    for kind in ("PNG", "TIFF"):
        found = np.asarray(decode(encoded(grey, kind), max_pixels=LIMIT))
        assert found[0].tolist() == [[0, 0, 0], [7, 7, 7], [255, 255, 255]]
    floats = Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32))
    assert np.asarray(decode(encoded(floats, "TIFF"), max_pixels=LIMIT))[0, 1].tolist() == [127, 127, 127]


def test_cmyk_and_one_bit():
    cmyk = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    red, green, blue = np.asarray(decode(encoded(cmyk, "JPEG", quality=95), max_pixels=LIMIT))[0, 0]
    assert red < 10 and green > 245 and blue > 245
    assert np.asarray(decode(encoded(Image.new("1", (2, 2), 1)), max_pixels=LIMIT)).min() == 255


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (6, 6), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=10)
        red, green, _ = np.asarray(decode(data, max_pixels=LIMIT))[3, 3]
        assert red > 240 and green < 16


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    data = encoded(noise(30, 20), "JPEG", exif=exif)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
    assert decode(data, max_pixels=LIMIT).size == (30, 20)
