"""What a process of a test has imported before it is forked (see `tests.processes`)."""

import _pytest.assertion  # noqa: F401 - each fork imports what pytest was started from
import torch._dynamo  # noqa: F401 - the first optimiser imports it
import torch.utils.data  # noqa: F401

import tests.conftest  # noqa: F401 - one thread: a process that has started threads must not be forked
import tgsr.cli
import tgsr.engine.stages
import tgsr.methods  # noqa: F401
import tgsr.report.page  # noqa: F401
