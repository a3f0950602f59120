"""Shared by all tests: one thread per process, so that results and timings do not depend on the machine's load."""

import cv2
import torch

torch.set_num_threads(1)
cv2.setNumThreads(0)
