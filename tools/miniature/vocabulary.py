"""The tokenizer of the tiny BLIP: a WordPiece vocabulary of the class file's words."""

from __future__ import annotations

import re
import string
from pathlib import Path

from transformers import BertTokenizer

from src.method.prompts import TEMPLATE
from tools.miniature.class_words import WORDS

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def wordpieces() -> list[str]:
    """Tokens in the order of their ids: special ones, every word of the prompts, then characters.

    The characters spell words that are not in the class file; other text is [UNK].
    """
    prompts = " ".join(TEMPLATE.format(word=word) for word in WORDS).lower()
    words = sorted(set(re.findall(r"\w+", prompts)))
    characters = string.ascii_lowercase + string.digits
    pieces = [*string.punctuation, *characters, *(f"##{character}" for character in characters)]
    return list(dict.fromkeys((*SPECIAL, *words, *pieces)))


def build_tokenizer() -> BertTokenizer:
    """A lower-casing BERT tokenizer with :func:`wordpieces`."""
    return BertTokenizer(vocab={token: number for number, token in enumerate(wordpieces())}, do_lower_case=True)


def save_tokenizer(tokenizer: BertTokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and a plain vocab.txt."""
    tokenizer.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(wordpieces()) + "\n", encoding="utf-8")
