"""Pictures and charts: what they show, and that an evaluation writes them beside its CSV."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from PIL import Image

import training_free_blip
from src import cli
from src.data.images import read_mask
from src.data.labels import Labelling
from src.data.lists import ListEntry
from src.errors import UserError
from src.files import REPOSITORY, write_bytes
from src.output import charts, pictures
from src.output.colours import SAFE_DISTANCE, VISIONS, VOC_PALETTE, as_seen, safe_palette
from src.output.evaluation_pictures import evenly_spaced, prediction_files
from src.output.fonts import drawable, pillow_text

CONFIG = str(REPOSITORY / "tests/golden_training_free.yaml")


def labels_with_square() -> np.ndarray:
    labels = np.zeros((40, 60), np.uint8)
    labels[10:30, 20:40] = 15
    return labels


def test_palette_is_that_of_pascal_voc() -> None:
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 8: (64, 0, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
    for label, colour in {**known, 255: (224, 224, 192)}.items():
        assert tuple(VOC_PALETTE[label].tolist()) == colour


def test_label_png_reads_back_as_labels_and_looks_like_the_palette(tmp_path: Path) -> None:
    labels = labels_with_square()
    labels[0, 0] = 255
    path = tmp_path / "labels.png"
    write_bytes(path, pictures.label_png(labels))
    assert np.array_equal(read_mask(path, Labelling(21)), labels)
    with Image.open(path) as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), VOC_PALETTE[labels])


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (1, 1_000_001)])
def test_a_photo_reads_back_unchanged(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    with Image.open(io.BytesIO(pictures.photo_png(Image.fromarray(pixels)))) as picture:
        assert picture.mode == "RGB"
        assert np.array_equal(np.asarray(picture), pixels)


def test_overlay_tints_classes_and_leaves_the_background_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    labels = labels_with_square()
    drawn = pictures.overlay(image, labels)
    assert np.array_equal(drawn[labels == 0], image[labels == 0])
    inside = np.s_[15:25, 25:35]
    expected = (1 - pictures.OPACITY) * image[inside] + pictures.OPACITY * VOC_PALETTE[15].astype(float)
    assert np.abs(drawn[inside] - expected).max() <= 1
    assert drawn[10, 20].tolist() != pytest.approx(expected[0, 0].tolist())  # the outline


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (300, 2), (480, 640)])
def test_overlay_with_legend_keeps_the_image_in_its_own_size(size: tuple[int, int]) -> None:
    image = np.full((*size, 3), 200, np.uint8)
    labels = np.ones(size, np.uint8)
    labels[0, 0] = 2
    legend = pictures.legend_of([labels], ["background", "cat", "a dog with a long name"])
    picture = np.asarray(pictures.overlay_with_legend(image, labels, legend))
    assert picture.shape[1] >= size[1]
    assert picture.shape[0] > size[0]
    assert np.array_equal(picture[: size[0], : size[1]], pictures.overlay(image, labels))
    below = picture[size[0] :].reshape(-1, 3)
    for entry in legend:
        assert (below == VOC_PALETTE[entry.label]).all(1).any(), f"no swatch of {entry.text}"


def test_legend_lists_the_classes_that_occur() -> None:
    labels = np.array([[0, 2], [255, 2]], np.uint8)
    legend = pictures.legend_of([labels, np.array([[1]], np.uint8)], ["background", "cat", "dog", "cow"])
    assert [(entry.label, entry.text) for entry in legend] == [(1, "cat"), (2, "dog"), (255, "ignored")]


def test_legend_breaks_into_lines_that_fit() -> None:
    entries = [pictures.LegendEntry(label, f"class number {label}") for label in range(1, 21)]
    strip = pictures.legend_strip(entries, 500, 14)
    assert strip.width == 500
    assert (np.asarray(strip)[:, -3:] == 255).all()  # no text crosses the edge
    assert strip.height > pictures.legend_strip(entries[:2], 500, 14).height


def test_heat_map_is_bright_where_the_class_is_and_dark_elsewhere() -> None:
    image = np.full((50, 80, 3), 120, np.uint8)
    strength = np.zeros((50, 80), np.float32)
    strength[:, 40:] = 0.8
    picture = np.asarray(pictures.heat_map(image, strength, "cat")).astype(int)
    assert picture[25, 60].sum() > picture[25, 10].sum() + 200
    nowhere = np.asarray(pictures.heat_map(image, strength * 1e-6, "cat")).astype(int)
    assert nowhere[25, 60].sum() - nowhere[25, 10].sum() < 30


def test_grid_fits_images_of_any_size_into_its_cells() -> None:
    shapes = [(30, 40), (400, 100), (90, 500)]
    rows = [[np.full((*shape, 3), 99, np.uint8)] * 3 for shape in shapes]
    picture = pictures.grid(rows, ("image", "prediction", "ground truth"), [pictures.LegendEntry(1, "cat")])
    assert 800 < picture.width < 900  # three columns fit a README
    columns = (np.asarray(picture) == 99).all(2).any(0)
    assert np.count_nonzero(np.diff(columns.astype(int)) == 1) == 3


def test_a_failed_image_write_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        write_bytes(tmp_path / "file" / "a.png", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_failed_chart_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shape"):
        charts.iou_bars(tmp_path / "iou.png", ["a", "b"], [0.1, 0.2, 0.3])
    assert not list(tmp_path.iterdir())


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Charts are written, and their figures are kept for inspection."""
    seen, save = [], charts._save

    def keep(figure: Figure, path: Path) -> None:
        seen.append(figure)
        save(figure, path)

    monkeypatch.setattr(charts, "_save", keep)
    return seen


def test_iou_bars_show_percent_in_label_order_and_the_mean(tmp_path: Path, figures: list[Figure]) -> None:
    charts.iou_bars(tmp_path / "iou.png", ["background", "cat", "dog"], [0.9, 0.25, 0.0], std=[0.01, 0.02, 0])
    axes = figures[0].axes[0]
    assert [bar.get_width() for bar in axes.patches] == [90, 25, 0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["background", "cat", "dog"]
    assert axes.get_legend().get_texts()[0].get_text() == "mIoU 38.33 %"
    assert axes.yaxis_inverted()
    assert Image.open(tmp_path / "iou.png").width > 500


def test_confusion_matrix_is_normalised_by_true_class(tmp_path: Path, figures: list[Figure]) -> None:
    charts.confusion_matrix(tmp_path / "confusion.png", ["background", "cat", "dog"], [[3, 1, 0], [0, 5, 5], [0, 0, 0]])
    shown = figures[0].axes[0].get_images()[0].get_array()
    assert shown[:2].tolist() == [[75, 25, 0], [0, 50, 50]]
    assert np.isnan(np.asarray(shown[2].filled(np.nan))).all()  # no pixel of this class: no row
    assert sorted(text.get_text() for text in figures[0].axes[0].texts) == ["25", "50", "50", "75"]


def test_infoscore_charts_mark_the_chosen_layers(tmp_path: Path, figures: list[Figure]) -> None:
    charts.infoscore_bars(tmp_path / "bars.png", [3.0, 1.0, 2.0], chosen=[0, 2])
    charts.infoscore_scatter(tmp_path / "scatter.png", [3.0, 1.0, 2.0], [0.5, 0.1, 0.4], chosen=[0, 2], rho=1.0)
    colours = [bar.get_facecolor() for bar in figures[0].axes[0].patches]
    assert colours[0] == colours[2] != colours[1]
    assert [tuple(text.xy) for text in figures[1].axes[0].texts] == [(3.0, 50.0), (1.0, 10.0), (2.0, 40.0)]


def test_grouped_bars_leave_gaps_where_there_is_no_value(tmp_path: Path, figures: list[Figure]) -> None:
    series = [("a", [0.5, 0.25], [None, None]), ("b", [0.5, None], [0.1, None])]
    charts.grouped_bars(tmp_path / "grouped.png", ["mIoU", "cat"], series)
    widths = [bar.get_width() for bar in figures[0].axes[0].patches]
    assert widths[:3] == [50, 25, 50]
    assert np.isnan(widths[3])


def test_charts_do_not_change_pyplot() -> None:
    code = "import sys; from src.output import charts; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_evenly_spaced_goes_from_the_first_to_the_last() -> None:
    assert evenly_spaced(range(100), 3) == [0, 50, 99] or evenly_spaced(range(100), 3) == [0, 49, 99]
    assert evenly_spaced([4, 7], 5) == [4, 7]
    assert evenly_spaced([4, 7], 1) == [4]
    assert len(set(evenly_spaced(range(11), 10))) == 10


def test_predictions_stay_in_their_folder_whatever_a_list_says() -> None:
    images = [Path("/data/root/../../other/a.jpg"), Path("/data/root/b.jpg"), Path("/data/../c.jpg")]
    files = prediction_files([ListEntry(image, None) for image in images], Path("/out"))
    assert list(files) == images
    assert list(files.values()) == [Path("/out/other/a.png"), Path("/out/data/root/b.png"), Path("/out/c.png")]
    (alone,) = prediction_files([ListEntry(images[0], None)], Path("/out")).values()
    assert alone == Path("/out/a.png")


def test_label_maps_of_different_images_never_share_a_file() -> None:
    images = ["a/1.jpg", "b/1.jpg", "b/2.jpg", "b/2.png"]
    files = prediction_files([ListEntry(Path("/data") / image, None) for image in images], Path("/out"))
    names = [str(files[Path("/data") / image]) for image in images]
    assert names == ["/out/a/1.png", "/out/b/1.png", "/out/b/2.jpg.png", "/out/b/2.png.png"]
    (flat,) = prediction_files([ListEntry(Path("/data/JPEGImages/2007_000033.jpg"), None)], Path("/out")).values()
    assert flat == Path("/out/2007_000033.png")


@pytest.mark.parametrize("resolution", ["letterbox", "original"])
def test_an_evaluation_writes_its_pictures(tmp_path: Path, resolution: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", CONFIG, "--limit", "5", "--output-dir", str(tmp_path), "--save-predictions"]
    arguments += ["--save-overlays", "2", "--set", f"eval.resolution={resolution}", "output.csv=out.csv", "crf.iters=2"]
    assert cli.run(training_free_blip.main, arguments) == 0, capsys.readouterr().err
    present = {path.name for path in tmp_path.iterdir()}
    assert present == {
        "out.csv",
        "out.json",
        "out_iou.png",
        "out_confusion.png",
        "out_overlays.png",
        "out_predictions",
    }
    predictions = sorted((tmp_path / "out_predictions").iterdir())
    assert [path.name for path in predictions] == [f"{number:06}.png" for number in range(5)]
    images = REPOSITORY / "tests/golden/pascal/data/JPEGImages"
    for path in predictions:
        with Image.open(path) as labels, Image.open(images / path.name) as image:
            assert labels.mode == "P"
            assert labels.size == image.size
            assert np.asarray(labels).max() < 7


def test_only_charts_are_written_by_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", CONFIG, "--limit", "1", "--output-dir", str(tmp_path), "--set", "output.csv=out.csv"]
    assert cli.run(training_free_blip.main, arguments) == 0, capsys.readouterr().err
    present = {path.name for path in tmp_path.iterdir()}
    assert present == {"out.csv", "out.json", "out_iou.png", "out_confusion.png"}


def distances(colours: np.ndarray) -> np.ndarray:
    """[4, N, N] delta E of ``colours`` under normal, protan, deutan and tritan vision."""
    seen = as_seen(colours)
    return np.linalg.norm(seen[:, :, None] - seen[:, None], axis=3)


def test_photos_colours_differ_under_every_kind_of_colour_vision() -> None:
    palette = safe_palette()
    distinct = len(np.unique(palette[1:255], axis=0))
    assert distinct >= 30
    colours = palette[[*range(distinct + 1), 255]]  # with background and ignored pixels
    between = distances(colours)
    assert list(VISIONS) == ["normal", "protan", "deutan", "tritan"]
    for vision, found in zip(VISIONS, between, strict=True):
        assert found[np.triu_indices(len(colours), 1)].min() >= SAFE_DISTANCE, vision
    assert bytes(palette[1]).hex() == "e69f00"  # Okabe and Ito's orange


def test_vocs_colours_do_not() -> None:
    assert distances(VOC_PALETTE[:21])[1][np.triu_indices(21, 1)].min() < SAFE_DISTANCE


def test_simulated_vision_confuses_what_it_should() -> None:
    red_and_green = as_seen(np.array([[200, 60, 0], [120, 120, 0]], np.uint8))
    normal, _, deutan, tritan = np.linalg.norm(red_and_green[:, 0] - red_and_green[:, 1], axis=1)
    assert deutan < 0.5 * normal
    assert tritan > 0.5 * normal


def test_names_are_drawn_inside_their_areas() -> None:
    image = np.full((200, 300, 3), 90, np.uint8)
    labels = np.zeros((200, 300), np.uint8)
    labels[50:150, 50:250] = 1
    plain = np.asarray(pictures.overlay_with_legend(image, labels, []))
    named = np.asarray(pictures.overlay_with_legend(image, labels, [], ["background", "cat"]))
    changed = np.argwhere((plain != named).any(2))
    assert len(changed)
    assert changed.min(0).tolist() > [50, 50]
    assert changed.max(0).tolist() < [150, 250]


def test_outlines_are_light_and_dark() -> None:
    labels = labels_with_square()
    for value in (0, 255):  # visible on any photo
        drawn = pictures.overlay(np.full((40, 60, 3), value, np.uint8), labels).mean(2)
        edge = drawn[20, 20:24]
        assert edge[0] - edge[1] > 100


def test_heat_maps_share_a_scale() -> None:
    image = np.full((50, 80, 3), 120, np.uint8)
    weak = np.full((50, 80), 0.2, np.float32)
    alone, shared = (np.asarray(pictures.heat_map(image, weak, "cat", top)).astype(int) for top in (None, 0.8))
    assert alone[25, 40].sum() > shared[25, 40].sum() + 100


@pytest.mark.parametrize("ending", cli.CHART_FORMATS)
def test_charts_of_every_format_show_words_of_every_script(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"iou.{ending}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Matplotlib warns of a character that it draws as a box
        words = ["background", "\N{CAT FACE}", "\u732b", "\u05d7\u05ea\u05d5\u05dc", "w" * 200]
        charts.iou_bars(path, words, [0.5] * 5)
    assert path.read_bytes()[:4] in (b"\x89PNG", b"%PDF", b"<?xm")


def test_a_character_without_a_font_is_shown_as_its_code_point() -> None:
    assert drawable("cat \U000f0000") == "cat U+F0000"
    assert drawable("na\u00efve") == "na\u00efve"
    black_cat = "\U000f0000\u200d\N{BLACK LARGE SQUARE}"  # an emoji of two characters: both or none
    assert drawable(black_cat) == "U+F0000 U+2B1B"
    assert drawable("\U000f0000\ufe0f") == "U+F0000"


def test_pillow_draws_no_character_that_its_font_lacks() -> None:
    with_hebrew, _ = pillow_text("\u05d7\u05ea\u05d5\u05dc \U000f0000", 14)
    assert with_hebrew == "\u05d7\u05ea\u05d5\u05dc U+F0000"
    for word in ("cat", "\u05d7\u05ea\u05d5\u05dc", "\u732b", "\N{CAT FACE}\u200d\N{BLACK LARGE SQUARE}"):
        text, font = pillow_text(word, 14)
        known = FT2Font(font.path).get_charmap() if isinstance(font.path, str) else range(0x180)
        assert all(ord(c) in known for c in text)


def test_a_long_word_makes_no_picture_wide(tmp_path: Path, figures: list[Figure]) -> None:
    image, labels = np.full((90, 420, 3), 200, np.uint8), np.ones((90, 420), np.uint8)
    names = ["background", "w" * 200]
    legend = pictures.legend_of([labels], names)
    assert pictures.overlay_with_legend(image, labels, legend, names).width == 420
    assert pictures.heat_map(image, np.ones((90, 420), np.float32), names[1]).width <= 2 * 420
    charts.iou_bars(tmp_path / "iou.png", names, [0.5, 0.5], title="title")
    axes = figures[0].axes[0]
    assert axes.get_window_extent().width > 0.3 * figures[0].bbox.width


def test_absent_classes_have_a_dash(tmp_path: Path, figures: list[Figure]) -> None:
    charts.iou_bars(tmp_path / "iou.png", ["background", "cat", "dog"], [0.9, 0.0, 0.0], absent=[2])
    axes = figures[0].axes[0]
    assert [text.get_text() for text in axes.texts] == ["90.0", "0.0", charts.ABSENT]
    right = axes.get_window_extent().x1
    assert all(text.get_window_extent().x0 > right for text in axes.texts)  # no bar, no line


def test_difference_of_two_results(tmp_path: Path, figures: list[Figure]) -> None:
    charts.difference_bars(tmp_path / "d.svg", ["mIoU", "cat", "dog"], [0.5, 0.2, None], [0.4, 0.5, 0.1], ("a", "b"))
    axes = figures[0].axes[0]
    assert [text.get_text() for text in axes.texts] == ["-10.0", "+30.0", charts.ABSENT]
    assert [bar.get_width() for bar in axes.patches][:2] == pytest.approx([-10, 30])
