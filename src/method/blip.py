"""Load a BLIP image-text-matching model from the hub or a folder, with its cross-attention exposed."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from torch import Tensor, nn
from torch.func import functional_call
from transformers import (
    AutoTokenizer,
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipTextConfig,
    BlipVisionConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from ..config.schema import shown
from ..errors import UserError
from ..files import require_regular, resolve
from .model import Model, ModelOutput, first_not_finite
from .replacements import (
    CrossAttentionTextEncoder,
    KeysValues,
    LogitsReducer,
    PromptStates,
    TextOutput,
    UnsupportedTransformersError,
    cast_once,
    expose_cross_attention,
    fuse_vision_attention,
    make_repeatable,
    modeling_blip_text,
    use_onednn,
)

MAX_TEXTS, MAX_WEIGHTS = 1 << 28, 1 << 36  # bytes of a file in a model folder
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LARGEST = {
    "num_hidden_layers": 1000,
    "num_attention_heads": 1000,
    "hidden_size": 1 << 16,
    "intermediate_size": 1 << 18,
    "encoder_hidden_size": 1 << 16,
    "vocab_size": 10**7,
    "max_position_embeddings": 10**6,
    "image_size": 1 << 13,
    "patch_size": 1 << 10,
}
"""Largest accepted values in a config.json: larger ones would fill the memory before the weights are read."""

USED = ("itm_head", "text_encoder", "vision_model")  # the parts of the model that are used


@dataclass(frozen=True)
class Blip(Model):
    """A model made of HuggingFace's BLIP modules: BLIP itself, or a model whose weights fit them, such as ALBEF.

    Attributes:
        model: HuggingFace ``BlipForImageTextRetrieval`` whose ``text_encoder`` is a ``CrossAttentionTextEncoder``.
        tokenizer: its tokenizer.
        name: the file, folder or hub name that it was loaded from.
    """

    model: BlipForImageTextRetrieval
    tokenizer: PreTrainedTokenizerBase
    name: str

    @property
    def text_encoder(self) -> CrossAttentionTextEncoder:
        """The model's text encoder, which exposes its cross-attention."""
        return cast(CrossAttentionTextEncoder, self.model.text_encoder)

    @property
    def commit(self) -> str | None:
        """Commit of the model's files on the hub; None for a folder or a file."""
        return getattr(self.model.config, "_commit_hash", None)

    @property
    def layers(self) -> tuple[int, ...]:
        """Indices of the text layers with cross-attention."""
        return self.text_encoder.image_layers

    @property
    def text_config(self) -> BlipTextConfig:
        return cast(BlipTextConfig, self.model.config.text_config)

    @property
    def vision_config(self) -> BlipVisionConfig:
        return cast(BlipVisionConfig, self.model.config.vision_config)

    @property
    def patch_size(self) -> int:
        """Side of a patch, pixels."""
        return cast(int, self.vision_config.patch_size)

    @property
    def device(self) -> torch.device:
        return self.model.itm_head.weight.device

    @property
    def products(self) -> list[tuple[int, int]]:
        """(in_features, out_features) of the linear layers in one layer of each encoder, each pair once."""
        layers = self.model.vision_model.encoder.layers[0], self.text_encoder.layers[self.layers[0]]
        linear = [part for layer in layers for part in layer.modules() if isinstance(part, nn.Linear)]
        return sorted({(each.in_features, each.out_features) for each in linear})

    @property
    def exact(self) -> bool:
        """Whether the model was prepared without fused kernels."""
        return not self.text_encoder.fused

    def use_onednn(self, use: bool) -> None:
        """Let linear layers compute float32 products without gradients with oneDNN, or with PyTorch's default."""
        use_onednn(self.model, use)

    @property
    def architecture(self) -> dict[str, dict[str, Any]]:
        """Both encoders' configurations."""
        return {"text_config": self.text_config.to_dict(), "vision_config": self.vision_config.to_dict()}

    def state_dict(self) -> Mapping[str, Tensor]:
        """All weights by name."""
        return self.model.state_dict()

    def tokenize(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask of ``prompts``, both [P, T], padded to the longest.

        Raises:
            UserError: a prompt is too long for the text encoder, or has token ids beyond its vocabulary.
        """
        encoded = self.tokenizer(prompts, padding=True, return_tensors="pt")
        longest = self.text_config.max_position_embeddings
        if encoded.input_ids.shape[1] > longest:
            prompt = prompts[int(encoded.attention_mask.sum(1).argmax())]
            raise UserError(f"prompt {prompt!r} has more than {longest} tokens, the limit of {self.name}; shorten it")
        known = self.text_config.vocab_size
        beyond = (encoded.input_ids >= known).any(1)
        if beyond.any():
            prompt = prompts[int(beyond.int().argmax())]
            raise UserError(
                f"the tokenizer of {self.name} does not fit its weights: prompt {prompt!r} has token ids beyond the "
                f"text encoder's vocabulary of {known}; put the model's own tokenizer files next to its weights, or, "
                "for an ALBEF checkpoint, set model.tokenizer"
            )
        return encoded.input_ids.to(self.device), encoded.attention_mask.to(self.device)

    def tokens(self, prompt: str) -> list[str]:
        """The tokens of ``prompt``, special tokens included."""
        return [*self.tokenizer.convert_ids_to_tokens(self.tokenizer(prompt).input_ids)]

    def unknown_words(self, words: list[str]) -> list[str]:
        """Words among ``words`` that the tokenizer maps to the unknown token."""
        unknown = self.tokenizer.unk_token_id
        return [word for word in words if unknown in self.tokenizer(word).input_ids]

    def embeds_shape(self, patches: int) -> tuple[int, int]:
        """(1 + N, D): the class token and every patch."""
        return 1 + patches, cast(int, self.vision_config.hidden_size)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Last state of the vision encoder, [B, 1 + N, D], for normalised ``pixels`` [B, 3, S, S]."""
        return self.model.vision_model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state

    @property
    def word_embeddings(self) -> Tensor:
        """[V, D_text]."""
        return self.text_encoder.embeddings.word_embeddings.weight

    @property
    def padding_token(self) -> int | None:
        """The token whose embedding gets no gradient, as in HuggingFace's model."""
        return self.text_encoder.embeddings.word_embeddings.padding_idx

    def cross_attention(self, layer: int) -> dict[str, Tensor]:
        """Parameters of the cross-attention block of ``layer``, by name in the encoder."""
        block = self.text_encoder.layers[layer].crossattention
        return {f"layer.{layer}.crossattention.{name}": value for name, value in block.named_parameters()}

    def encode_prompts(self, input_ids: Tensor, attention_mask: Tensor, words: Tensor | None = None) -> PromptStates:
        """See :meth:`CrossAttentionTextEncoder.encode_prompts`."""
        return self.text_encoder.encode_prompts(input_ids, attention_mask, words)

    def keys_values(
        self, image_embeds: Tensor, layers: Sequence[int], wanted: Collection[int] = ()
    ) -> dict[int, KeysValues]:
        """See :meth:`CrossAttentionTextEncoder.keys_values`."""
        return self.text_encoder.keys_values(image_embeds, layers, wanted)

    def attend(
        self,
        prompts: PromptStates,
        image_embeds: Tensor,
        layers: Sequence[int],
        reduce: LogitsReducer,
        logits_budget: int | None = None,
        known: Mapping[int, KeysValues] | None = None,
        weights: Mapping[str, Tensor] | None = None,
    ) -> ModelOutput:
        """See :meth:`Model.attend` and :class:`CrossAttentionTextEncoder`."""
        parameters = {f"encoder.{name}": value for name, value in (weights or {}).items()}
        arguments = prompts, image_embeds, layers, reduce, logits_budget, known
        output: TextOutput = functional_call(self.text_encoder, parameters, arguments)
        itm_logits = modeling_blip_text.unrounded(self.model.itm_head, output.last_hidden_state)
        return ModelOutput(itm_logits, output.reduced_logits)


def load_blip(name: str, device: torch.device, fused: bool = True, revision: str | None = None) -> Blip:
    """Load an image-text-matching BLIP in float32.

    Args:
        name: a HuggingFace hub name, or a folder in HuggingFace format (absolute, or relative to the repository root).
        device: where to put the model.
        fused: see :func:`prepare`.
        revision: commit, tag or branch on the hub; None is the main branch.

    Raises:
        UserError: the model is not found, is not a BLIP, or has no matching head; its weights do not have the shapes of
            its configuration or are not finite; or the installed transformers is not supported.
    """
    folder = _local_folder(name)
    source = str(folder) if folder else name
    if folder:
        check_folder(folder)
        if revision is not None:
            raise UserError(f"model.revision {revision} is for models on the hub, but model.name {name} is a folder")
    try:
        options: dict[str, Any] = {"revision": revision or "main"}
        options["local_files_only"] = folder is None and not _hub_answers(name, options["revision"])
        with quiet_transformers():  # keys and shapes are checked below
            _check_config(source, name, options)
            loaded: Any = BlipForImageTextRetrieval.from_pretrained(
                source,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                attn_implementation="eager",  # a config.json may name code on the hub, which would be loaded
                **options,
            )
            model, report = loaded
            tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except UserError:
        raise
    except Exception as error:  # transformers and the hub client raise many kinds; all mean: not loadable
        raise _not_loadable(name, folder, error) from error
    if tokenizer.unk_token_id in tokenizer("image of", add_special_tokens=False).input_ids:
        # without a vocabulary, transformers makes one of special tokens alone
        raise UserError(f"model {name} has no vocabulary; put its vocab.txt or tokenizer.json next to its weights")
    mismatched = sorted(report["mismatched_keys"])
    if mismatched:
        key, found, expected = mismatched[0]
        others = f" (and {len(mismatched) - 1} more differ)" if mismatched[1:] else ""
        raise UserError(
            f"model {name}: its weights do not fit its config.json: {key} has shape {list(found)}; expected "
            f"{list(expected)}{others}; use both files of the same model"
        )
    missing = sorted(key for key in report["missing_keys"] if key.startswith(USED))
    if missing:
        for prefix in ("model.", "module."):
            if any(prefix + key in report["unexpected_keys"] for key in missing):
                raise UserError(
                    f'model {name}: the names of its weights begin with "{prefix}", as those of a wrapped model do; '
                    "save the state_dict of the inner model, or remove the prefix from all names"
                )
        raise UserError(
            f"model {name} is not an image-text-matching model: its weights lack {missing[0]} "
            f"(and {len(missing) - 1} more); use a blip-itm checkpoint such as Salesforce/blip-itm-large-coco"
        )
    bad = first_not_finite({key: value for key, value in model.state_dict().items() if key.startswith(USED)})
    if bad:
        raise UserError(f"model {name}: weight {bad} contains NaN or infinity; download the model again")
    prepare(model, fused)
    nn.Module.to(model, device)
    return Blip(model, tokenizer, name)


def prepare(model: BlipForImageTextRetrieval, fused: bool = True) -> BlipForImageTextRetrieval:
    """Expose the cross-attention of a HuggingFace BLIP and freeze it; returns ``model``.

    With ``fused``, attention whose weights are not needed uses PyTorch's fused kernels: many times faster in the vision
    encoder, equal up to float32 rounding. Without it, the order of operations is HuggingFace's.

    Under autocast, linear layers also keep their weights in the number format of autocast: for BLIP-large 0.78 GiB in
    addition to the 1.66 GiB of the float32 weights.

    Turns TF32 off for the whole process: by default, PyTorch's convolutions on CUDA round their inputs to its 10 bits
    of mantissa.

    Raises:
        UserError: the installed release of transformers is not supported.
    """
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        expose_cross_attention(model, fused)
    except UnsupportedTransformersError as error:
        raise UserError(str(error)) from error
    if fused:
        fuse_vision_attention(model)
    cast_once(model)
    make_repeatable(model.text_encoder)
    return model.eval().requires_grad_(False)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Context without progress bars and warnings of transformers."""
    progress_bar = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if progress_bar:
            transformers_logging.enable_progress_bar()


def offline_note() -> str:
    """For messages about files that the hub did not deliver: a note if HF_HUB_OFFLINE is set."""
    return " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""


def _local_folder(name: str) -> Path | None:
    if "://" in name:
        hub = "/".join(name.partition("://")[2].split("/")[1:3])
        raise UserError(f"model.name {name} is a URL; give only the hub name ({hub}), or a folder")
    folder = resolve(name)
    if os.path.isdir(folder):  # unlike Path.is_dir, it accepts names that are too long
        return folder
    if "\\" in name and os.sep == "/":
        raise UserError(f"model.name {name}: separate the parts of a path by /, not by \\")
    # a hub name is at most "owner/model"; anything longer must be a folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or name.split("/")[0] == "data":
        raise UserError(f"model.name {name}: the folder {folder} does not exist; give a folder or a hub name")
    return None


def check_folder(folder: Path) -> None:
    """Check that the files of a model folder are regular files and not Git LFS pointers.

    Raises:
        UserError: one of them is not.
    """
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"model folder {folder} cannot be read: {error.strerror}; give yourself permission") from error
    for file in files:
        if file.suffix not in (".json", ".txt", ".safetensors", ".bin"):
            continue
        try:
            require_regular(file, MAX_WEIGHTS if file.suffix in (".safetensors", ".bin") else MAX_TEXTS)
            with file.open("rb") as opened:
                pointer = opened.read(len(LFS_POINTER)) == LFS_POINTER
        except OSError as error:
            raise UserError(f"model folder {folder}: {file.name} cannot be read: {error.strerror or error}") from error
        if pointer:
            raise UserError(
                f"model folder {folder}: {file.name} is a Git LFS pointer, not the file; run `git lfs pull` there"
            )


def _hub_answers(name: str, revision: str) -> bool:
    """Whether the hub can be reached, tried once: transformers would try for most of a minute per file."""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return True  # transformers handles it
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=10)
    except (httpx.TransportError, OSError) as error:
        return isinstance(error, HfHubHTTPError)  # the hub answered; transformers' error will say more
    except ValueError:  # not a valid name; transformers' error will say more
        return True
    return True


def check_sizes(config: Mapping[str, Any], name: str) -> None:
    """Check the sizes in the config.json of model ``name`` before memory is allocated for them.

    Raises:
        UserError: one is not from 1 to that of :data:`LARGEST`.
    """
    for part in ("text_config", "vision_config"):
        for key, value in (config.get(part) or {}).items():
            most = LARGEST.get(key)
            if most is not None and not (type(value) is int and 1 <= value <= most):
                raise UserError(
                    f"model {name}: {part}.{key} in its config.json is {shown(value)}; expected 1 to {most:,}"
                )


def _check_config(source: str, name: str, options: dict[str, Any]) -> None:
    config = BlipConfig.get_config_dict(source, **options)[0]
    check_sizes(config, name)
    kind, architectures = config.get("model_type"), config.get("architectures") or []
    if kind is None:
        raise ValueError("config.json is missing or not of a transformers model")
    if kind != "blip" or (architectures and "BlipForImageTextRetrieval" not in architectures):
        found = architectures[0] if architectures else kind
        raise UserError(
            f"model {name} is a {found}, not a BLIP image-text-matching model (BlipForImageTextRetrieval); "
            "use one such as Salesforce/blip-itm-large-coco"
        )


def _not_loadable(name: str, folder: Path | None, error: Exception) -> UserError:
    reason = textwrap.shorten(str(error), 200, placeholder=" ...")
    if folder:
        return UserError(
            f"model folder {folder} cannot be loaded: {reason}; it must contain config.json, model.safetensors and the "
            "tokenizer files, as save_pretrained writes them"
        )
    return UserError(
        f"model {name} is neither in the HuggingFace cache nor reachable{offline_note()}: {reason}; run "
        f"`hf download {name}` on a machine with network access, or set model.name to a local folder"
    )
