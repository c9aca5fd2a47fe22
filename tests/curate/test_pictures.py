"""Pictures known again: small changes stay near and share a key, other pictures do not; crops are laid back."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from sailctl.core import images
from sailctl.core.curate.decontaminate import alignment
from sailctl.core.curate.dedup import pictures
from tests.curate.helpers_planted import encoded, scene

COUNT = 24


def copies_of(shown: list[Image.Image]) -> np.ndarray:
    return np.stack([np.frombuffer(pictures.small_copy(one), np.uint8) for one in shown])


def again(image: Image.Image, kind: str, quality: int) -> Image.Image:
    return images.decode(encoded(image, kind, quality), max_pixels=10**7)


@pytest.mark.parametrize(
    ("scale", "kind", "quality"), [(1.0, "JPEG", 50), (0.7, "PNG", 0), (1.6, "WEBP", 70), (0.8, "JPEG", 80)]
)
def test_resized_or_encoded_anew_a_picture_is_near_and_found(scale: float, kind: str, quality: int) -> None:
    scenes = [scene(seed) for seed in range(COUNT)]
    changed = [again(one.resize((round(160 * scale), round(120 * scale))), kind, quality) for one in scenes]
    left, right = copies_of(scenes), copies_of(changed)
    assert (pictures.difference(left, right) <= pictures.NEAR).all()
    assert pictures.may_be_near(pictures.coarse(left), pictures.coarse(right), pictures.NEAR).all()
    bits, keys = pictures.band_keys(left)
    other_bits, other_keys = pictures.band_keys(right)
    assert all(np.intersect1d(a, b).size for a, b in zip(keys, other_keys, strict=True))
    assert (np.bitwise_count(bits[:, :8] ^ other_bits[:, :8]).sum(axis=1) <= pictures.FAR).all()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ((640, 480), (640, 480), True),
        ((640, 480), (320, 240), True),
        ((640, 480), (640, 457), True),  # log(480 / 457) = 0.049
        ((640, 480), (640, 456), False),  # 0.051
        ((640, 480), (20, 14), True),  # log(20 / 14) - log(4 / 3) = 0.069; 1.5 / 14 = 0.107
        ((640, 480), (20, 13), False),  # 0.143; 1.5 / 13 = 0.115
        ((640, 480), (480, 640), False),
        ((1500, 100), (400, 300), False),
    ],
)
def test_shapes_agree_but_for_whole_pixels(one: tuple[int, int], other: tuple[int, int], same: bool) -> None:
    left, right = np.array([one], dtype=np.uint32), np.array([other], dtype=np.uint32)
    assert pictures.same_aspect(left, right).tolist() == pictures.same_aspect(right, left).tolist() == [same]


def test_other_pictures_are_far() -> None:
    copies = copies_of([scene(seed) for seed in range(COUNT)])
    one, other = np.triu_indices(COUNT, 1)
    assert (pictures.difference(copies[one], copies[other]) > 3 * pictures.NEAR).all()


def test_a_small_thing_that_is_missing_moved_or_of_another_colour_is_seen() -> None:
    plain = Image.new("RGB", (160, 120), (200, 200, 190))
    colours = {"red": (220, 30, 30), "green": (20, 140, 20)}  # of about the same grey

    def with_square(colour: str, x: int) -> Image.Image:
        image = plain.copy()
        image.paste(colours[colour], (x, 50, x + 14, 64))
        return image

    first, moved, green = with_square("red", 40), with_square("red", 47), with_square("green", 40)
    apart = pictures.difference(copies_of([first] * 3), copies_of([plain, moved, green]))
    assert (apart > pictures.NEAR).all(), apart
    assert pictures.difference(copies_of([first]), copies_of([again(first, "JPEG", 70)]))[0] <= pictures.NEAR


def test_another_tint_of_the_whole_is_seen() -> None:
    image = scene(3)
    darker = Image.fromarray((np.asarray(image) * 0.96).astype(np.uint8))
    assert pictures.difference(copies_of([image]), copies_of([darker]))[0] > pictures.NEAR


def test_blank_is_what_has_one_colour() -> None:
    noise = np.clip(np.random.default_rng(0).normal(128, 2, (80, 80, 3)), 0, 255).astype(np.uint8)
    shown = [Image.new("RGB", (50, 50), "navy"), Image.fromarray(noise), scene(0), Image.new("RGB", (9, 9), "white")]
    assert pictures.is_blank(copies_of(shown)).tolist() == [True, True, False, True]


def test_hashes_of_pixels_tell_shapes_apart() -> None:
    wide, tall = Image.new("RGB", (4, 2)), Image.new("RGB", (2, 4))
    assert pictures.pixel_hash(wide) != pictures.pixel_hash(tall)
    assert pictures.pixel_hash(wide) == pictures.pixel_hash(Image.new("RGB", (4, 2), 0))


def test_mixing_is_one_to_one() -> None:
    values = np.arange(100_000, dtype=np.uint64)
    assert len(np.unique(pictures.mix(values))) == len(values)


class TestCrops:
    @pytest.mark.parametrize("corner", [(0, 0), (8, 6), (3, 5)])
    def test_a_crop_of_95_percent_is_laid_back_where_it_was(self, corner: tuple[int, int]) -> None:
        scenes = [scene(seed) for seed in range(8)]
        x, y = corner
        cut = [again(one.crop((x, y, x + 152, y + 114)), "JPEG", 80) for one in scenes]
        whole, part = copies_of(scenes), copies_of(cut)
        views = alignment.view_descriptors(pictures.lumas(whole))
        alike = np.einsum("nd,nvd->nv", alignment.descriptors(pictures.lumas(part)), views)
        assert (alike.max(axis=1) > alignment.ALIKE).all()
        best = np.argsort(-alike, axis=1)[:, : alignment.TRIED]
        assert (alignment.crop_difference(whole, part, best) <= alignment.NEAR).all()
        frames = alignment.aligned(pictures.lumas(whole), pictures.lumas(part), alignment.frames_of(best[:, 0]))
        assert np.abs(frames - [0.95, 0.95, x / 160, y / 120]).max() < 0.01

    def test_another_picture_cannot_be_laid_upon_it(self) -> None:
        whole, part = copies_of([scene(seed) for seed in range(8)]), copies_of([scene(seed) for seed in range(8, 16)])
        views = np.tile(np.arange(3), (8, 1))
        assert (alignment.crop_difference(whole, part, views) > 2 * alignment.NEAR).all()

    def test_a_frame_of_the_whole_changes_nothing(self) -> None:
        luma = pictures.lumas(copies_of([scene(1)]))
        assert np.allclose(alignment.warped(luma, np.array([[1.0, 1.0, 0.0, 0.0]])), luma, atol=1e-3)
