"""Data preparation: from the official archives of PASCAL VOC, SBD and COCO to the layout the experiments read.

``python -m tools.prepare --help`` is the manual.
"""
