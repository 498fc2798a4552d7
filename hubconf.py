"""Entry points of torch.hub.

segmenter = torch.hub.load("path/to/checkout", "segmenter", "path/to/model", classes="cat; dog", source="local")
"""

from typing import Any

from src.photos.api import PhotoSegmenter

dependencies = ["torch", "transformers", "safetensors", "numpy", "cv2", "PIL", "yaml", "tqdm", "matplotlib"]


def segmenter(name: str = "Salesforce/blip-itm-large-coco", **options: Any) -> PhotoSegmenter:
    """Load a segmenter of photos; ``options`` are those of ``Segmenter.from_pretrained``, ``classes`` is required."""
    return PhotoSegmenter.from_pretrained(name, **options)
