"""Labelling a folder of images: resumable, by several processes, with equal results.

Progress is one line of JSON per image, appended to the file of a process as soon as it is known.
Label files are made of these lines when there is one for every image, whichever process wrote it,
so they do not depend on how many processes there were and how often they were interrupted.
"""

from owlkit.annotation.job import AnnotationJob, Detect
from owlkit.annotation.loading import Group
from owlkit.annotation.results import Results
from owlkit.annotation.shard import Shard

__all__ = ["AnnotationJob", "Detect", "Group", "Results", "Shard"]
