"""What the last step of an installation finds, and what it says."""

from wlsweep.install_check import build_problem, check, device_problems, import_problems, parse_gpus

H100 = "NVIDIA H100 80GB HBM3, 580.65.06, 9.0, 81559\n"


def test_an_environment_for_cpus_is_whole_here():
    problems, found = check("cpu")
    assert problems == [] and found[0].startswith("torch 2.13.0")


def test_a_torch_without_cuda_is_refused_for_gpus_before_vllm_fails_on_it():
    problems, _ = check("gpu")  # this environment has the CPU build
    assert len(problems) == 1 and "built without CUDA" in problems[0] and "make clean EXTRA=gpu" in problems[0]
    assert build_problem("2.13.0", "13.0") is None


def test_a_driver_too_old_for_cuda_13_is_named_with_the_one_that_is_needed():
    assert device_problems(parse_gpus(H100), "13.0") == []
    (problem,) = device_problems(parse_gpus(H100.replace("580.65.06", "570.86.15") * 4), "13.0")
    assert "driver 570.86.15" in problem and "580 or newer" in problem
    assert device_problems(parse_gpus(H100.replace("580.65.06", "570.86.15")), "12.8") == []


def test_a_gpu_without_bf16_is_refused():
    (problem,) = device_problems(parse_gpus("Tesla V100-SXM2-32GB, 580.65.06, 7.0, 32768\n"), "13.0")
    assert "compute capability 7" in problem and "8.0 or newer" in problem


def test_lines_that_are_no_gpu_are_left_out():
    assert parse_gpus("No devices were found\n\n") == []
    assert parse_gpus(H100 + "[N/A], x, y, z\n")[0].memory_mib == 81559


def test_an_engine_that_cannot_be_imported_says_why():
    (problem,) = import_problems(["json", "no_such_engine"])
    assert problem.startswith("no_such_engine cannot be imported: ModuleNotFoundError")
