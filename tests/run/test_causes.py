"""What a person reads of a failure."""

import pytest
import torch

from wlsweep.run.causes import LONGEST, details, is_out_of_memory, one_line, plain
from wlsweep.run.layout import RunDir, read_json
from wlsweep.run.status import record_failure

TRACEBACK = """Traceback (most recent call last):
  File "worker_group.py", line 55, in work
    _serve(desk, rank, me, first)
  File "zero3.py", line 10, in build
    raise ValueError("width 65 is no multiple of 2")
ValueError: width 65 is no multiple of 2
"""
NCCL = (
    '\\x1b[36mray::_RayTrainWorker\\x1b[0m Traceback (most recent call last):\\n  File \\"x.py\\", line 3\\n'
    "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:94, unhandled cuda error, NCCL 2.27.5\\n"
    "ncclUnhandledCudaError: Call to CUDA function failed.\\nLast error:\\nCuda failure 'no CUDA-capable device'"
    + "x"
    * 1500
)


def test_a_tracebacks_cause_is_its_error():
    assert one_line(TRACEBACK) == "ValueError: width 65 is no multiple of 2"
    assert details(TRACEBACK) == TRACEBACK.strip()


def test_an_error_that_rays_wrappers_repeat_is_named_by_its_own_class():
    text = TRACEBACK + "\nray.exceptions.RayTaskError(ValueError): ray::work() (pid=3, ip=127.0.0.1)\n"
    assert one_line(text) == "ValueError: width 65 is no multiple of 2"


def test_a_failed_start_of_nccl_is_one_readable_line_and_says_where_to_look():
    found = one_line(NCCL)
    assert len(found) <= LONGEST and "\\n" not in found and "\x1b" not in found and "\\x1b" not in found
    assert "NCCL" in found and "docs/cluster.md" in found
    assert "no CUDA-capable device" in details(NCCL)


def test_an_engine_that_finds_too_little_memory_names_the_setting():
    text = "ValueError: Free memory on device (10/80 GiB) on startup is less than desired GPU memory utilization (0.9)."
    assert "lower predict.memory_share" in one_line(text)


def test_a_plain_sentence_stays_what_it_is():
    assert one_line("the loss is nan at step 3") == "the loss is nan at step 3"
    assert details("the loss is nan at step 3") is None
    assert one_line("") == "no cause was given"


def test_colours_and_spelt_line_breaks_go():
    assert plain("\x1b[31mred\x1b[0m\\nnext") == "red\nnext"


def test_the_record_of_a_failure_holds_one_line_and_the_rest_beside_it(tmp_path):
    run = RunDir(tmp_path)
    run.condition("a").mkdir(parents=True)
    record_failure(run, "a", "train", TRACEBACK)
    record = read_json(run.failed("a"))
    assert record["cause"] == "ValueError: width 65 is no multiple of 2"
    assert "worker_group.py" in record["details"]


def test_running_out_of_gpu_memory_is_told_from_other_errors():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    with pytest.raises(RuntimeError) as refused:  # by the allocator itself
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)
    assert not is_out_of_memory(RuntimeError("DataLoader worker is killed: Out of memory? no"))
