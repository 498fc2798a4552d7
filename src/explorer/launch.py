"""The attention explorer with a model behind it: a page in the browser that answers new words and new photos.

    python -m src.explorer --config configs/miniature.yaml
    python -m src.explorer --config configs/pascal_blip.yaml --images photos/ --classes "cat; dog = puppy, hound"

Open the address that it prints. Drop a photo into the page, type what to look for, press Enter. A photo is encoded
once; new words take the text encoder only. Without --images the page begins with the configuration's image list.

It listens on this machine only; --host 0.0.0.0 admits other machines, without a password. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import errno
import ipaddress
import socket
from pathlib import Path

from .. import cli
from ..config.schema import Config
from ..data.lists import evaluation_entries
from ..errors import UserError
from ..files import user_path
from ..photos.photo_files import find_photos
from ..photos.words import prompts_of_words
from ..screen import note, say
from ..task import note_scope

PORT = 8321
SHOWN = 60  # images of a list or folder, unless --limit says otherwise


def main(arguments: list[str]) -> None:
    """Serve the explorer until Ctrl-C."""
    args = _parser().parse_args(arguments)
    config = cli.load(args)
    photos = _photos(args, config)
    prompts_of_words(config, args.classes, args.background)  # refused here, before the model is loaded
    listener = bind(args.host, args.port)

    # imports torch: errors in the command are printed before
    with cli.quick_imports():
        from .server import serve
        from .studio import Studio

    with listener:
        note_scope(config.model.name, photos)
        studio = Studio.load(config, photos, args.device)
        say(f"the explorer is at {address_of(listener)}  (Ctrl-C ends it)")
        serve(listener, studio, args.host, args.classes, args.background)
    say("the explorer has ended")


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens at ``host`` and ``port`` (0: any free one).

    Raises:
        UserError: the port is in use or not allowed, or ``host`` is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"--host {host} has no address ({error}); use an address of this machine, such as 127.0.0.1"
        ) from None
    listener = socket.socket(family, kind, protocol)
    try:
        if hasattr(socket, "SO_REUSEPORT"):  # elsewhere (Windows) SO_REUSEADDR would share a port that is in use
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()  # takes the port; an early browser waits for the model
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is in use; choose another with --port, such as --port {port + 1}") from None
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} is not open to you; choose one above 1023 with --port") from None
        raise UserError(f"--host {host} --port {port}: cannot listen there ({error.strerror or error})") from None
    return listener


def address_of(listener: socket.socket) -> str:
    """The address to open in a browser; if it listens on every address, this machine's name."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = socket.gethostname()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _photos(args: argparse.Namespace, config: Config) -> list[Path]:
    """The first images: those of ``--images``, otherwise of the configuration's list, if it exists."""
    most = args.limit or SHOWN
    if args.images:
        return find_photos(args.images, Path())[:most]
    try:
        return [entry.image for entry in evaluation_entries(config, masks=False)][:most]
    except UserError as error:
        note(f"note: no images to begin with ({error}); drop photos into the page, or give --images")
        return []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m src.explorer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cli.model_arguments(parser, limit=f"show only the first N images (default: {SHOWN})")
    parser.add_argument(
        "--images",
        nargs="+",
        type=user_path,
        metavar="PATH",
        help="image files or folders of images (default: the configuration's list)",
    )
    parser.add_argument(
        "--classes",
        metavar="WORDS",
        help='classes to start with, such as "cat; dog = puppy, hound; my red mug" (default: the class file)',
    )
    parser.add_argument(
        "--background",
        metavar="WORDS",
        help='background words to start with, such as "table, wall" (default: the background words of the class file)',
    )
    parser.add_argument(
        "--port", type=cli.whole_number(0, 65535), default=PORT, help=f"to listen on; 0: any free one (default: {PORT})"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)"
    )
    return parser
