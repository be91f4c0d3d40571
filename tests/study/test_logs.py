"""The line of a log that says why a job failed, and the last line of one that runs."""

import pytest

from open_instruct.common.paths import REPOSITORY
from open_instruct.study.logs import failure_line, last_line, signal_of_launched

WARNINGS = """/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: 1 leaked semaphore objects
  warnings.warn('resource_tracker: 1 leaked')
"""
BAR = "\rLoading weights:  50%|#####     | 1/2 [00:01, 1.00it/s]\rLoading weights: 100%|##| 2/2 [00:02, 1.00it/s]\n"
TRACEBACK = f"""Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
  File "{REPOSITORY}/open_instruct/finetune.py", line 143, in <module>
    run(main, Args)
  File "{REPOSITORY}/open_instruct/training/loop.py", line 88, in optimiser_step
    loss.backward()
    ~~~~~~~~~~~~~^^
  File "{REPOSITORY}/.venv/lib/python3.11/site-packages/torch/_tensor.py", line 648, in backward
    torch.autograd.backward(
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.
See the documentation for a long explanation.
"""
PLACE = "(open_instruct/training/loop.py:88, in optimiser_step)"
OUT_OF_MEMORY = f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. {PLACE}"
CHAINED = TRACEBACK.replace("torch.OutOfMemoryError: CUDA out", "KeyError: 'x'\nout") + (
    f"\nDuring handling of the above exception, another exception occurred:\n\n{TRACEBACK}"
)
LAUNCHER = """Traceback (most recent call last):
  File "/usr/bin/accelerate", line 7, in <module>
    sys.exit(main())
subprocess.CalledProcessError: Command '['python', 'finetune.py']' returned non-zero exit status 1.
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("loading\nerror: no such file; run --dry_run\n" + WARNINGS + BAR, "error: no such file; run --dry_run"),
        ("error: an earlier one\nerror: the last one\n" + LAUNCHER, "error: the last one"),
        ("error: not formatted:\n  rte: no such file\n" + WARNINGS, "error: not formatted: rte: no such file"),
        (TRACEBACK + WARNINGS + BAR, OUT_OF_MEMORY),
        (CHAINED, OUT_OF_MEMORY),
        (TRACEBACK + LAUNCHER, OUT_OF_MEMORY),
        (
            "slurmstepd: error: Detected 1 oom-kill event(s)\n" + WARNINGS,
            "slurmstepd: error: Detected 1 oom-kill event(s)",
        ),
        (
            "fine_tune.sh: line 41: ckpt: set ckpt to a step\n" + WARNINGS + BAR,
            "fine_tune.sh: line 41: ckpt: set ckpt to a step",
        ),
        (WARNINGS + BAR, ""),
        ("", ""),
    ],
)
def test_the_failure_is_an_error_or_exception_never_a_warning_or_a_progress_bar(tmp_path, text, line):
    log = tmp_path / "log"
    log.write_text(text)
    assert failure_line(log) == line


KILLED = LAUNCHER.replace("returned non-zero exit status 1", "died with <Signals.SIGKILL: 9>")
SEVERAL = """torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
Failures:
[1]:
  traceback : Signal 15 (SIGTERM) received by PID 12
Root Cause (first observed failure):
[0]:
  exitcode  : -9 (pid: 11)
  traceback : Signal 9 (SIGKILL) received by PID 11
"""


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (KILLED, 9),
        (SEVERAL, 9),
        (SEVERAL.replace("Signal 9 (SIGKILL) received by PID 11", "To enable traceback see: …"), None),
        ("error: no such file\n" + KILLED, None),
        (LAUNCHER, None),
    ],
)
def test_a_launcher_says_which_signal_ended_the_process_that_it_started(tmp_path, text, number):
    log = tmp_path / "log"
    log.write_text(text)
    assert signal_of_launched(log) == number


def test_an_error_of_an_earlier_attempt_is_not_this_ones(tmp_path):
    log = tmp_path / "log"
    log.write_text("error: of the first attempt\n")
    offset = log.stat().st_size
    assert failure_line(log, offset=offset) == last_line(log, offset=offset) == ""
    with log.open("a") as file:
        file.write("ValueError\nthe second one\n")
    assert failure_line(log, offset=offset) == last_line(log, offset=offset) == "the second one"


def test_an_error_far_from_the_end_of_a_long_log_is_found(tmp_path):
    log = tmp_path / "log"
    log.write_text("step\n" * 100_000 + TRACEBACK + WARNINGS * 500)
    assert failure_line(log) == OUT_OF_MEMORY


def test_a_log_that_is_not_there_says_nothing(tmp_path):
    assert failure_line(tmp_path / "none") == last_line(tmp_path / "none") == ""
