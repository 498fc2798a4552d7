"""Addresses of the archives, and other places to get them."""

from __future__ import annotations

VOC_ARCHIVE = "VOCtrainval_11-May-2012.tar"
SBD_ARCHIVE = "benchmark.tgz"
COCO_ANNOTATIONS = "annotations_trainval2014.zip"

# images.cocodataset.org has no certificate of its own; this is the same bucket under a name that has one
COCO_HOST = "https://s3.amazonaws.com/images.cocodataset.org"
COCO_URLS = {
    COCO_ANNOTATIONS: f"{COCO_HOST}/annotations/{COCO_ANNOTATIONS}",
    "train2014.zip": f"{COCO_HOST}/zips/train2014.zip",
    "val2014.zip": f"{COCO_HOST}/zips/val2014.zip",
}
COCO_MD5 = {
    COCO_ANNOTATIONS: "0a379cfc70b0e71301e0f377548639bd",
    "train2014.zip": "0da8c0bd3d6becc4dcb32757491aca88",
    "val2014.zip": "a3d79f5ed8d289b7a7554ce06a5782b3",
}

DIAM = "DIaM's datasets.zip (link in github.com/sinahmr/DIaM: images and ready masks of PASCAL and COCO)"

# by name of the archive; the checksums of VOC and SBD are torchvision's
ELSEWHERE = {
    VOC_ARCHIVE: f"https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/{VOC_ARCHIVE} or web.archive.org "
    "(md5 6cd6e144f989b92b3379bac3b3de84fd)",
    SBD_ARCHIVE: "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/"
    f"{SBD_ARCHIVE} or web.archive.org (md5 82b4d87ceb2ed10f6038a1cba92111cb), or take {DIAM}",
    **{name: f"{url} (md5 {COCO_MD5[name]}), or take {DIAM}" for name, url in COCO_URLS.items()},
}
