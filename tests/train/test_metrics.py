import io
import json
import math
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from tensorboardX import proto
from tensorboardX.record_writer import RecordWriter  # noqa: F401 - the format read below is the one it writes

from lmjax.analysis.plots import column, plot_loss, smooth
from lmjax.train.metrics import MetricWriters, Throughput, mfu, peak_flops, read_metrics
from lmjax.train.progress import ProgressReport, duration, short_number, summary
