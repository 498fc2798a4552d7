"""The explorer's server: its answers, whom it answers, and that no request stops it."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from starlette.datastructures import Headers

from src import cli
from src.data.images import format_names
from src.errors import UserError
from src.explorer import server as server_module
from src.explorer import studio as studio_module
from src.explorer.launch import address_of, bind, main
from src.explorer.server import Guard, make_app, server_config
from src.explorer.studio import Studio
from src.files import REPOSITORY
from src.method.segmenter import Segmenter
from src.photos import command as photos
from src.photos.words import prompts_of_words
from src.task import PHOTO_MODEL
from tests.explorer.conftest import assert_reachable, low_contrast
from tests.explorer.test_commands import content_of

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from src.config.schema import Config


class Served:
    """A running server and a way to ask it."""

    def __init__(self, studio: Studio, port: int) -> None:
        self.studio = studio
        self.port = port
        self.address = f"http://127.0.0.1:{port}/"

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON (else bytes) of an answer; a body is posted."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        data = body if isinstance(body, bytes | None) else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET" if body is None else "POST", path, data, named)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        kind = response.headers.get("content-type", "")
        return response.status, json.loads(content) if kind.startswith("application/json") else content

    def explore(self, photo: str, classes: str = "cat; mug", background: str = "") -> tuple[int, Any]:
        return self.ask("/explore", {"photo": photo, "classes": classes, "background": background})


@pytest.fixture
def studio(make_config: Callable[..., Config], data_root: Path) -> Studio:
    return Studio.load(make_config(), sorted((data_root / "images").iterdir()), "cpu")


@pytest.fixture
def served(studio: Studio) -> Iterator[Served]:
    with serving(studio) as served:
        yield served


@contextlib.contextmanager
def serving(studio: Studio) -> Iterator[Served]:
    """A server of ``studio`` in a thread."""
    listener = bind("127.0.0.1", 0)
    server = uvicorn.Server(server_config(make_app(studio, "127.0.0.1", "cat = kitten; mug")))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield Served(studio, listener.getsockname()[1])
    server.should_exit = True
    thread.join()


def jpeg(width: int = 40, height: int = 30) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def test_answers_are_those_of_the_command_line(
    served: Served, config_file: Callable[..., Path], data_root: Path, tmp_path: Path
) -> None:
    status, answer = served.explore("1", "cat = kitten; mug")
    assert status == 200
    assert answer.pop("unknown") == []
    arguments = [str(data_root / "images/1.jpg"), "--config", str(config_file()), "--save-explorer"]
    arguments += ["--classes", "cat = kitten; mug", "--output-dir", str(tmp_path), "--device", "cpu"]
    assert cli.run(photos.main, arguments) == 0
    assert answer == content_of(tmp_path / "1_explorer.html")


def test_a_photo_is_encoded_once(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = []
    encode = Segmenter.encode_images

    def count(self: Segmenter, pixels: torch.Tensor) -> torch.Tensor:
        encoded.append(pixels)
        return encode(self, pixels)

    monkeypatch.setattr(Segmenter, "encode_images", count)
    answers = [served.explore(photo, words)[1] for photo in "01" for words in ("cat", "dog", "mug; cat")]
    assert len(encoded) == 2
    assert [len(answer["words"]) for answer in answers] == [4, 4, 5] * 2


def test_photos_can_be_sent(served: Served) -> None:
    status, sent = served.ask("/photos?name=my%20photo.jpg", jpeg())
    assert (status, sent["name"]) == (200, "my photo.jpg")
    status, answer = served.explore(sent["key"])
    assert (status, answer["name"]) == (200, "my photo.jpg")
    assert answer["photo"]["width"] == 40
    status, thumbnail = served.ask(f"/photos/{sent['key']}")
    with Image.open(io.BytesIO(thumbnail)) as picture:
        assert (status, picture.size) == (200, (40, 30))


def test_old_photos_make_room(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio_module, "MAX_SENT", 2)
    monkeypatch.setattr(studio_module, "MAX_ENCODED", 1)
    keys = [studio.add("photo.jpg", jpeg(width)) for width in (20, 30, 40)]
    assert [key in studio.photos for key in keys] == [False, True, True]
    with pytest.raises(UserError, match="no longer here"):
        studio.explore(keys[0], None, None)
    for key in (keys[1], "0", keys[1]):  # a forgotten photo is encoded again
        assert studio.explore(key, "cat", None)["words"]
    assert "0" in studio.photos


def test_the_photos_that_are_kept_have_a_limit_in_bytes(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [jpeg(width) for width in (20, 30, 40)]
    monkeypatch.setattr(studio_module, "MAX_KEPT_BYTES", len(photos[1]) + len(photos[2]))
    keys = [studio.add("photo.jpg", photo) for photo in photos]
    assert [key in studio.photos for key in keys] == [False, True, True]
    monkeypatch.setattr(studio_module, "MAX_KEPT_BYTES", 1)
    key = studio.add("photo.jpg", jpeg(50))
    assert [photo for photo in studio.photos if photo in (*keys, key)] == [key]
    assert studio.explore(key, "cat", None)["photo"]["width"] == 50


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGHUP")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGHUP", "SIGTERM"])
def test_what_was_sent_leaves_no_file_behind(config_file: Callable[..., Path], tmp_path: Path, name: str) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "src.explorer", "--config", str(config_file()), "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout
        try:
            port = int(process.stdout.readline().split("  ")[0].rsplit(":", 1)[1])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/photos?name=a.jpg", jpeg())
            assert connection.getresponse().status == 200
            process.send_signal(getattr(signal, name))
            process.wait(timeout=60)
        finally:
            process.kill()
    assert [path.name for path in temporary.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("classes", "background", "reason"),
    [
        (";", "", "Look for: expected 1 to 254 classes, got 0"),
        ("cat = kitten, dog; mug, cup", "", 'Look for: "mug, cup": separate classes with ";"'),
        ("cat", "cat", 'Background: "cat" is one of the classes too'),
        ("; ".join(f"cat{n}" for n in range(200)) + " = " + ",".join(["cat"] * 200), "", "at most 300"),
        ("cat " * 40, "", "tokens"),
    ],
)
def test_words_are_refused_as_on_the_command_line(served: Served, classes: str, background: str, reason: str) -> None:
    status, answer = served.explore("0", classes, background)
    assert status == 400
    assert reason in answer["error"]
    assert served.explore("0")[0] == 200


def test_words_that_cannot_be_spelt_are_named(served: Served) -> None:
    status, answer = served.explore("0", "cat; zebra")
    assert (status, answer["unknown"]) == (200, ["zebra"])


def test_photos_that_cannot_be_read_are_refused_by_name(served: Served) -> None:
    assert served.ask("/photos?name=notes.txt", b"no image") == (
        400,
        {"error": f"notes.txt cannot be read as an image; expected {format_names()}"},
    )
    status, sent = served.ask("/photos?name=cut.jpg", jpeg(400, 300)[:3000])
    status, answer = served.explore(sent["key"])
    assert status == 400
    assert answer["error"].startswith("image cut.jpg cannot be read")
    status, answer = served.explore("17")
    assert (status, answer["error"]) == (400, "this photo is no longer here; open it again")


def test_what_is_too_large_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    status, answer = served.explore("0", "cat" * 30_000)
    assert (status, answer["error"]) == (413, "these words are too large: at most 64 KiB are accepted here")
    monkeypatch.setattr(server_module, "MAX_PHOTO_BYTES", 2**20)
    status, answer = served.ask("/photos?name=large.jpg", bytes(2**20 + 1))
    assert (status, answer["error"]) == (413, "large.jpg is too large: at most 1 MiB are accepted here")
    monkeypatch.setattr(studio_module, "MAX_SENT_BYTES", 4000)
    status, answer = served.ask("/photos?name=wide.jpg", jpeg())
    assert status == 400
    assert "wide.jpg is too large" in answer["error"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"photo": 1, "classes": "", "background": ""}', b"[" * 60_000])
def test_malformed_questions_are_refused(served: Served, body: bytes) -> None:
    status, answer = served.ask("/explore", body)
    assert status == 400
    assert answer["error"].startswith("expected JSON")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "[::1"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1"},  # another port of this machine
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
    ids=str,
)
@pytest.mark.parametrize("path", ["/", "/photos/0", "/explore", "/photos?name=a.jpg"])
def test_strangers_are_refused(served: Served, path: str, headers: dict[str, str]) -> None:
    body = {"/explore": {"photo": "0", "classes": "cat", "background": ""}, "/photos?name=a.jpg": jpeg()}.get(path)
    kept = len(served.studio.photos)
    assert served.ask(path, body, **headers)[0] == 403
    assert len(served.studio.photos) == kept


def test_its_own_page_is_answered(served: Served) -> None:
    for host in (f"127.0.0.1:{served.port}", f"localhost:{served.port}", f"[::1]:{served.port}"):
        origin = {"Host": host, "Origin": f"http://{host}", "Sec_Fetch_Site": "same-origin"}
        assert served.ask("/photos?name=a.jpg", jpeg(), **origin)[0] == 200


@pytest.mark.parametrize(
    ("listening", "asked_for", "answered"),
    [
        ("127.0.0.1", "127.0.0.1:1", True),
        ("127.0.0.1", "192.168.1.5:1", False),
        ("::1", "localhost", True),
        ("localhost", "somewhere.example", False),
        ("0.0.0.0", "192.168.1.5:1", True),
        ("0.0.0.0", "evil.example:1", False),
        ("0.0.0.0", f"{socket.gethostname()}:1", True),
        ("workstation.lan", "workstation.lan:1", True),
    ],
)
def test_names_it_is_reached_by(listening: str, asked_for: str, answered: bool) -> None:
    guard = Guard(lambda *_: None, listening)  # type: ignore[arg-type, return-value]
    assert (guard.refusal(Headers({"host": asked_for})) is None) == answered


def test_every_answer_has_the_security_headers(served: Served) -> None:
    for path, host in (
        ("/", "localhost"),
        ("/photos/0", "localhost"),
        ("/nowhere", "localhost"),
        ("/", "evil.example"),
    ):
        connection = http.client.HTTPConnection("127.0.0.1", served.port)
        connection.request("GET", path, headers={"Host": host})
        headers = connection.getresponse().headers
        connection.close()
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_the_model_answers_one_question_at_a_time(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0
    explore = served.studio.explore

    def watched(*question: Any) -> dict[str, Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.02)
        answer = explore(*question)
        running -= 1
        return answer

    monkeypatch.setattr(served.studio, "explore", watched)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(served.explore, "012012"))
    assert [status for status, _ in answers] == [200] * 6
    assert [answer["name"] for _, answer in answers] == ["0.jpg", "1.jpg", "2.jpg"] * 2
    assert most == 1


def test_a_defect_is_reported_and_does_not_stop_it(
    served: Served, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no memory left")

    with monkeypatch.context() as patched:
        patched.setattr(served.studio, "explore", fail)
        status, answer = served.explore("0")
    assert (status, answer["error"]) == (500, "MemoryError: no memory left (more in the terminal)")
    assert "Traceback" in capfd.readouterr().err
    assert served.explore("0")[0] == 200


def test_a_port_in_use_is_one_line(config_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert cli.run(main, ["--config", str(config_file()), "--port", str(port)]) == 2
    assert (
        capsys.readouterr().err
        == f"error: port {port} is in use; choose another with --port, such as --port {port + 1}\n"
    )


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.1", "a" * 300])
def test_an_address_of_another_machine_is_refused(host: str) -> None:
    with pytest.raises(UserError, match="--host"):
        bind(host, 0)


@pytest.mark.parametrize(
    ("host", "named"), [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("0.0.0.0", socket.gethostname())]
)
def test_the_address_can_be_typed_into_a_browser(host: str, named: str) -> None:
    with bind(host, 0) as listener:
        port = listener.getsockname()[1]
        assert address_of(listener) in (f"http://{named}:{port}", f"http://[::1]:{port}")


def test_wrong_words_are_reported_before_torch_is_imported() -> None:
    code = "import sys; from src import cli; from src.explorer.launch import main; "
    code += "print(cli.run(main), 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, "--config", "configs/miniature.yaml", "--classes", "cat, dog; mug"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "2 False"
    assert 'separate classes with ";"' in done.stderr


def test_control_c_ends_it_cleanly(config_file: Callable[..., Path]) -> None:
    config = config_file(val_list="nowhere.txt")
    command = [sys.executable, "-m", "src.explorer", "--config", str(config), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        line = process.stdout.readline()
        port = int(line.split("  ")[0].rsplit(":", 1)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/")
        assert b"Attention explorer" in connection.getresponse().read()
        process.send_signal(signal.SIGINT)  # the connection is still open
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert out == "the explorer has ended\n"
    assert err.count("\n") == 1  # the list that is not there
    assert "no images to begin with" in err


def test_the_page_answers_new_words_and_new_photos(
    served: Served, tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    window = open_page(served.address, expected="400 (Bad Request)")
    assert window.locator("h1").inner_text() == "0.jpg"
    assert window.locator("#photos img").count() == 3
    assert window.locator("#ask-classes").input_value() == "cat = kitten; mug"
    window.locator(".layer[data-layer='0'] .toggle").click()
    window.locator("#ask-classes").fill("dog; cat")
    window.keyboard.press("Enter")
    window.locator(".class", has_text="dog").wait_for()
    assert window.locator(".layer[data-layer='0'] .toggle").get_attribute("aria-pressed") == "false"  # as it was left
    window.locator("#ask-classes").fill("dog, cat; mug")
    window.keyboard.press("Enter")
    window.locator("#message.error", has_text='separate classes with ";"').wait_for()
    assert window.locator(".class", has_text="dog").count() == 1  # the earlier answer stays
    window.locator("#ask-classes").fill("mug; zebra")
    photo = tmp_path / "new photo.jpg"
    photo.write_bytes(jpeg())
    window.locator("#ask-file").set_input_files(photo)
    window.locator("h1", has_text="new photo.jpg").wait_for()
    assert "zebra" in window.locator("#message").inner_text()
    assert window.locator("#photos button[aria-pressed=true]").get_attribute("title") == "new photo.jpg"
    other = open_page(served.address)  # a second tab
    other.locator("#photos button").nth(2).click()
    other.locator("h1", has_text="2.jpg").wait_for()
    assert window.locator("h1").inner_text() == "new photo.jpg"
    drop = """bytes => {
        const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "dropped.jpg", {type: "image/jpeg"}));
        document.dispatchEvent(new DragEvent("drop", {dataTransfer: data, cancelable: true}));
    }"""
    window.evaluate(drop, list(jpeg(60, 60)))
    window.locator("h1", has_text="dropped.jpg").wait_for()


@torch.no_grad()
def test_heads_and_tokens_combine_to_the_word(served: Served, open_page: Callable[..., Page]) -> None:
    """Maximum over heads, then the sum over tokens: the logits that the segmenter has for the word among all words."""
    studio = served.studio
    prompts = prompts_of_words(studio.config, "cat = kitten; mug", "sky, red wall")
    segmenter = Segmenter.from_config(studio.config, studio.model, prompts, (0, 2))
    image = np.asarray(Image.open(studio.photos["1"].source))  # type: ignore[arg-type]
    attended = segmenter.attend(segmenter.encode_images(segmenter.frame.image(image)[None]), range(4))
    address = f"{served.address}#photo=1&classes=cat = kitten; mug&background=sky, red wall"
    window = open_page(address, allowed=served.address)
    window.locator("#parts-fold summary").click()
    for layer, word in ((0, "kitten"), (3, "red wall")):
        window.locator(".word", has_text=word).click()
        window.locator("#parts-layer").select_option(str(layer))
        window.locator("#parts-show").click()
        window.wait_for_function("word => explorer.parts?.word === word", arg=word)
        parts = window.evaluate(
            "(({texts, heads, sum, tokens, logits}) => "
            "({texts, heads, sum: [...sum], tokens: [...tokens], logits: [...logits]}))(explorer.parts)"
        )
        template = ["[CLS]", "image", "of", ".", "[SEP]"]
        spelled = {"kitten": ["kit", "##ten"], "red wall": ["red", "wall"]}[word]
        assert parts["texts"] == [*template[:3], *spelled, *template[3:]]
        logits = torch.tensor(parts["logits"]).view(parts["heads"], len(parts["texts"]), -1)
        assert parts["heads"] == 2
        torch.testing.assert_close(logits.amax(0).flatten(), torch.tensor(parts["tokens"]))
        expected = attended.token_logits[layer][0, prompts.words.index(word)]
        torch.testing.assert_close(torch.tensor(parts["sum"]), expected, atol=1e-4, rtol=1e-4)
    cards = window.locator("#token-cards .part")
    assert cards.locator(".part-name").all_inner_texts() == ["all tokens", *parts["texts"]]
    before = window.evaluate("document.getElementById('canvas').toDataURL()")
    cards.nth(4).click()
    assert window.locator("#scale b").inner_text() == "“red” in layer 3"
    assert window.locator("#head-cards .part").count() == 2
    assert window.evaluate("document.getElementById('canvas').toDataURL()") != before
    window.locator("#head-cards .part").nth(1).click()
    assert window.locator("#scale b").inner_text() == "“red” in layer 3, head 1"
    low, high = (float(text) for text in window.locator("#scale span").all_inner_texts())
    assert (low, high) == pytest.approx((float(logits[:, 3].min()), float(logits[:, 3].max())), abs=0.051)
    window.locator(".word", has_text="kitten").click()  # a word again
    assert window.locator("#scale b").inner_text() == "kitten"


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ({"photo": "0", "word": "cat", "layer": 9}, "layer 9 does not exist"),
        ({"photo": "0", "word": "cat", "layer": "0"}, "expected JSON"),
        ({"photo": "0", "word": "x" * 201, "layer": 0}, "has 201 characters"),
        ({"photo": "7", "word": "cat", "layer": 0}, "no longer here"),
        ([], "expected JSON"),
    ],
)
def test_tokens_of_what_does_not_exist_are_refused(served: Served, question: Any, reason: str) -> None:
    status, answer = served.ask("/parts", question)
    assert status == 400
    assert reason in answer["error"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_form_can_be_read_and_reached_by_keys(served: Served, scheme: str, open_page: Callable[..., Page]) -> None:
    window = open_page(served.address, color_scheme=scheme, expected="400 (Bad Request)")
    window.locator("#ask-background").fill("")
    window.locator("#ask-classes").fill("dog, cat; mug")
    window.keyboard.press("Enter")
    window.locator("#message.error").wait_for()
    assert low_contrast(window) == []
    reached = assert_reachable(window)
    form = [place for place in reached if place.startswith("ask-") or place == "primary"]
    assert form == ["ask-classes", "ask-background", "primary", "ask-file"]
    tree = window.locator("#ask").aria_snapshot()
    for line in (
        'textbox "Look for":',
        'textbox "Background"',
        'button "Look"',
        'button "Open a photo"',
        'group "Photos"',
        'button "0.jpg"',
        "status: ",
    ):
        assert line in tree, tree


def test_on_a_phone_the_form_folds_after_an_answer(served: Served, open_page: Callable[..., Page]) -> None:
    window = open_page(served.address, 390, 844)
    assert window.locator("#ask-classes").is_hidden()
    window.get_by_text("Words and photos").click()
    assert window.locator("#ask-classes").is_visible()


def test_an_answer_is_kept_and_compared_with_the_next(served: Served, open_page: Callable[..., Page]) -> None:
    window = open_page(served.address)
    window.locator(".compare summary").click()
    window.get_by_text("Keep this answer").click()
    window.locator("#ask-classes").fill("dog; mug")
    window.keyboard.press("Enter")
    window.locator(".class", has_text="dog").wait_for()
    assert "“cat; mug”" in window.locator("#sides span").last.inner_text()
    window.locator("#photos button").nth(2).click()
    window.get_by_text("These are different photos, 2.jpg and 0.jpg").wait_for()
    assert window.locator("#swipe").is_hidden()


def test_a_reload_asks_again_for_both_sides_of_a_comparison(served: Served, open_page: Callable[..., Page]) -> None:
    window = open_page(served.address)
    window.locator(".compare summary").click()
    window.get_by_text("Keep this answer").click()
    window.locator("#ask-classes").fill("dog; mug")
    window.keyboard.press("Enter")
    window.locator(".class", has_text="dog").click()
    window.locator("#swipe").focus()
    window.keyboard.press("ArrowLeft")
    shown = window.locator("#canvas").evaluate("canvas => canvas.toDataURL()")
    sides = window.locator("#sides").inner_text()
    assert "“cat; mug”" in sides
    window.reload()
    window.evaluate("explorer.ready")
    assert window.locator("#sides").inner_text() == sides
    assert window.locator("#canvas").evaluate("canvas => canvas.toDataURL()") == shown
    assert window.locator("#message").inner_text() == ""
    window.go_back()  # to the labels, before the word was chosen
    window.locator("input[value=refined]:checked").wait_for()
    assert window.locator("#swipe").is_visible()
    window.go_back()  # to the answer that was kept
    window.locator(".class", has_text="dog").wait_for(state="detached")
    assert window.locator("#ask-classes").input_value() == "cat = kitten; mug"
    window.go_back()
    window.locator("#swipe").wait_for(state="hidden")


def test_an_answer_that_the_server_refuses_is_not_compared(served: Served, open_page: Callable[..., Page]) -> None:
    address = f"{served.address}#compare-classes=;&line=20"
    window = open_page(address, allowed=served.address, expected="400 (Bad Request)")
    window.get_by_text("The answer to “;” is not compared").wait_for()
    assert "Look for: expected 1 to 254 classes" in window.locator("#message.error").inner_text()
    assert "compare" not in window.evaluate("location.hash")


def test_back_returns_to_the_words_and_the_photo_before(served: Served, open_page: Callable[..., Page]) -> None:
    window = open_page(served.address)
    window.locator("#ask-classes").fill("dog")
    window.keyboard.press("Enter")
    window.locator(".class", has_text="dog").wait_for()
    window.locator("#photos button").nth(2).click()
    window.locator("h1", has_text="2.jpg").wait_for()
    window.locator(".class", has_text="dog").click()
    window.go_back()
    window.locator("input[value=refined]:checked").wait_for()
    window.go_back()
    window.locator("h1", has_text="0.jpg").wait_for()
    assert window.locator(".class", has_text="dog").count() == 1
    window.go_back()
    window.locator(".word", has_text="kitten").wait_for()
    assert window.locator("#ask-classes").input_value() == "cat = kitten; mug"
    for _ in range(3):
        window.go_forward()
    window.locator("h1", has_text="2.jpg").wait_for()
    window.locator(".class[aria-pressed=true]", has_text="dog").wait_for()


def test_an_unknown_photo_in_the_address_is_ignored_and_named(served: Served, open_page: Callable[..., Page]) -> None:
    window = open_page(f"{served.address}#photo=zebra&classes=dog", allowed=served.address)
    assert window.locator("h1").inner_text() == "0.jpg"
    assert window.locator(".class", has_text="dog").count() == 1
    assert window.locator("#status").inner_text() == "Ignored in the address: photo zebra."


def test_an_emptied_field_stays_empty(served: Served, open_page: Callable[..., Page]) -> None:
    """Empty, it stands for the words of the class file, not for those of the command line."""
    window = open_page(served.address)
    window.locator("#ask-classes").fill("")
    window.keyboard.press("Enter")
    window.locator(".class", has_text="red mug").wait_for()
    window.reload()
    window.evaluate("explorer.ready")
    assert window.locator(".class", has_text="red mug").count() == 1


def test_photos_outside_the_scope_of_the_model_are_named_on_the_page(
    make_config: Callable[..., Config],
    data_root: Path,
    model_folder: Path,
    tmp_path: Path,
    open_page: Callable[..., Page],
) -> None:
    """On the photos that it was trained for, the page warns of nothing."""
    model = shutil.copytree(model_folder, tmp_path / "model")
    values = json.loads((model / "config.json").read_text())
    scope = {"scope": "drawings of cats", "scope_data": str(data_root)}
    (model / "config.json").write_text(json.dumps({**values, **scope}))
    config = make_config(model={"name": str(model)})
    with serving(Studio.load(config, sorted((data_root / "images").iterdir()), "cpu")) as served:
        window = open_page(served.address)
        assert window.locator("#warning").is_hidden()
        photo = tmp_path / "mine.jpg"
        photo.write_bytes(jpeg())
        window.locator("#ask-file").set_input_files(photo)
        window.locator("h1", has_text="mine.jpg").wait_for()
        warning = window.locator("#warning").inner_text()
        assert warning.startswith(f"{model} knows drawings of cats only; on other images its labels mean nothing.")
        assert PHOTO_MODEL in warning
        assert low_contrast(window) == []
        window.locator("#photos button").first.click()
        window.locator("h1", has_text="0.jpg").wait_for()
        assert window.locator("#warning").is_hidden()
    common = ["--config", str(tmp_path / "config.yaml"), "--device", "cpu", "--save-explorer", "--output-dir"]
    assert cli.run(photos.main, [str(photo), str(data_root / "images/0.jpg"), *common, str(tmp_path / "out")]) == 0
    assert content_of(tmp_path / "out" / "mine_explorer.html")["warning"] == warning
    assert content_of(tmp_path / "out" / "0_explorer.html")["warning"] is None


def test_a_server_that_has_ended_is_reported(served: Served, open_page: Callable[..., Page]) -> None:
    window = open_page(served.address, expected="ERR_")
    window.context.set_offline(True)
    window.locator("#ask button[type=submit]").click()
    window.locator("#message.error", has_text="does not answer").wait_for()


def test_of_several_questions_the_last_one_counts(
    served: Served, monkeypatch: pytest.MonkeyPatch, open_page: Callable[..., Page]
) -> None:
    window = open_page(served.address)
    explore = served.studio.explore

    def slow(key: str, *words: Any) -> dict[str, Any]:
        time.sleep(0.5 if key == "1" else 0)
        return explore(key, *words)

    monkeypatch.setattr(served.studio, "explore", slow)
    window.locator("#photos button").nth(1).click()
    window.locator("#photos button").nth(2).click()
    window.locator("h1", has_text="2.jpg").wait_for()
    window.wait_for_timeout(300)
    assert window.locator("h1").inner_text() == "2.jpg"


@pytest.mark.parametrize("origin", ["http://[", "http://127.0.0.1:[", "http://]"])
def test_an_origin_that_is_no_address_is_refused(served: Served, origin: str) -> None:
    assert served.ask("/", None, Origin=origin)[0] == 403


@pytest.mark.parametrize(
    ("path", "mode", "destination", "status"),
    [
        ("/", "navigate", "document", 200),  # a link
        ("/", "navigate", "iframe", 403),
        ("/", "no-cors", "image", 403),
        ("/", "cors", "empty", 403),
        ("/photos/0", "navigate", "document", 403),
    ],
)
def test_a_link_in_another_page_may_open_the_page(
    served: Served, path: str, mode: str, destination: str, status: int
) -> None:
    headers = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": mode, "Sec_Fetch_Dest": destination}
    assert served.ask(path, None, **headers)[0] == status


def test_a_file_name_that_is_no_utf8_breaks_nothing(
    make_config: Callable[..., Config], data_root: Path, tmp_path: Path
) -> None:
    photo = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    photo.write_bytes(jpeg())
    with serving(Studio.load(make_config(), [photo], "cpu")) as served:
        status, opened = served.ask("/")
        assert status == 200
        assert b"caf\\udce9.jpg" in opened
        status, answer = served.explore("0")
        assert (status, answer["name"]) == (200, photo.name)
        photo.write_bytes(b"")
        status, answer = served.explore("0")
        assert status == 400
        assert "caf" in answer["error"]


def test_questions_of_clients_that_hung_up_are_not_computed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    computed, begun, release = [], threading.Event(), threading.Event()
    explore = served.studio.explore

    def watched(key: str, *words: Any) -> dict[str, Any]:
        computed.append(key)
        begun.set()
        release.wait(30)
        return explore(key, *words)

    monkeypatch.setattr(served.studio, "explore", watched)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(served.explore, "0")
        assert begun.wait(30)
        gone = http.client.HTTPConnection("127.0.0.1", served.port)
        gone.request("POST", "/explore", json.dumps({"photo": "1", "classes": "cat", "background": ""}))
        time.sleep(0.3)  # it has arrived and waits
        gone.close()
        time.sleep(0.3)
        release.set()
        assert first.result()[0] == 200
    assert served.explore("2")[0] == 200
    assert computed == ["0", "2"]


def half_sent(port: int, sent: int) -> socket.socket:
    """A connection that announces a photo and sends the first part of it."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(b"POST /photos?name=a.jpg HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000000\r\n\r\n")
    with contextlib.suppress(TimeoutError):
        connection.settimeout(0.5)
        connection.sendall(bytes(sent))
    return connection


def test_half_sent_uploads_are_bounded_and_end(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "PAUSE_SECONDS", 3)
    received, body = 0, server_module._body

    async def watched(*arguments: Any) -> bytes:
        nonlocal received
        received += 1
        return await body(*arguments)

    monkeypatch.setattr(server_module, "_body", watched)
    uploads = [half_sent(served.port, 1000) for _ in range(6)]
    time.sleep(0.5)
    assert received == server_module.MAX_UPLOADS  # the others wait, unread
    uploads[0].settimeout(30)
    assert b"408" in uploads[0].recv(100)
    for upload in uploads:
        upload.close()
    assert served.ask("/photos?name=a.jpg", jpeg())[0] == 200


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: loc"])
def test_silent_connections_end(served: Served, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.5)
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(sent)
        assert connection.recv(100) == b""
    with socket.create_connection(("127.0.0.1", served.port), timeout=30) as connection:
        connection.sendall(b"GET /photos/0 HTTP/1.1\r\nHost: localhost\r\n\r\nGET")  # and after an answer
        while connection.recv(10_000):
            pass


def test_no_more_connections_than_allowed(served: Served) -> None:
    idle = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(server_module.MAX_CONNECTIONS)]
    time.sleep(0.3)
    assert served.ask("/")[0] == 503
    for connection in idle:
        connection.close()
    time.sleep(0.3)
    assert served.ask("/")[0] == 200


def test_control_c_under_load_is_quiet(config_file: Callable[..., Path], data_root: Path) -> None:
    command = [sys.executable, "-m", "src.explorer", "--config", str(config_file()), "--port", "0", "--device", "cpu"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        port = int(process.stdout.readline().split("  ")[0].rsplit(":", 1)[1])
        asked = []
        for number in range(60):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            words = "; ".join(f"cat{n}" for n in range(200))
            body = json.dumps({"photo": str(number % 3), "classes": words, "background": ""})
            connection.request("POST", "/explore", body)
            asked.append(connection)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "the explorer has ended\n", "")
