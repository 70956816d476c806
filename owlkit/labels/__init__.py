"""Detections as label files that other tools train on: COCO, YOLO and Pascal VOC."""

from owlkit.labels.coco import coco_files
from owlkit.labels.folder import Content, LabelFolder, Link
from owlkit.labels.image import LabelledImage
from owlkit.labels.names import unique_stems
from owlkit.labels.voc import check_voc_names, voc_files
from owlkit.labels.yolo import yolo_files

__all__ = [
    "Content",
    "LabelFolder",
    "LabelledImage",
    "Link",
    "check_voc_names",
    "coco_files",
    "unique_stems",
    "voc_files",
    "yolo_files",
]
