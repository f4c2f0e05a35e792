"""Commands of minirlhf, and kernels, in processes of their own that need not import torch first.

The server of multiprocessing imports it once (warm_imports.py), before any thread starts, and each
command is a fork of that server with an environment, an output and signals of its own. Where a
system cannot fork, each command is a fresh Python. The task `openings` is the small one
(`tiny_command.small_openings`). A test of the start itself starts Python itself.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

FOLDERS = (Path(__file__).parent, Path(__file__).parents[1])  # of the tests, of the package
can_fork = "forkserver" in multiprocessing.get_all_start_methods()
context = multiprocessing.get_context("forkserver" if can_fork else "spawn")
if can_fork:
    context.set_forkserver_preload(["warm_imports"])


def _start(work: Callable[..., None], *arguments: object) -> BaseProcess:
    """A process that calls work(*arguments)."""
    process: BaseProcess = context.Process(target=work, args=arguments)
    path = os.environ.get("PYTHONPATH")
    # The first process starts the server, which finds warm_imports.py here.
    os.environ["PYTHONPATH"] = os.pathsep.join([*map(str, FOLDERS), *filter(None, [path])])
    try:
        process.start()
    finally:
        if path is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = path
    return process


class Command:
    """One command, started at once. Its output goes to files in `output`, an empty folder.

    `environment` is added to this process's own. `file_limit`: no file may grow longer (bytes).
    """

    def __init__(
        self,
        arguments: list[str],
        output: Path,
        environment: dict[str, str] | None = None,
        save_every_step: bool = False,
        file_limit: int | None = None,
    ):
        output.mkdir(parents=True)
        self.output = output
        whole = {**os.environ, "TQDM_DISABLE": "1", **(environment or {})}
        self.process = _start(_work, arguments, output, whole, save_every_step, file_limit)

    def running(self) -> bool:
        return self.process.is_alive()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def wait(self, timeout: float = 300) -> int:
        """The exit code, or minus the number of the signal that ended it."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise AssertionError(f"the command did not end: {self.errors()}")
        return self.process.exitcode

    def printed(self) -> str:
        return (self.output / "out").read_text(encoding="utf-8")

    def errors(self) -> str:
        return (self.output / "err").read_text(encoding="utf-8")


def done(arguments: list[str], output: Path, **options) -> Command:
    """A command that must succeed, when it has."""
    command = Command(arguments, output, **options)
    code = command.wait()
    assert code == 0, command.errors()
    return command


def _end_with_parent() -> None:
    """A process whose tests were killed ends, too."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _work(
    arguments: list[str],
    output: Path,
    environment: dict[str, str],
    save_every_step: bool,
    file_limit: int | None,
) -> None:
    """The command, in its own process."""
    _end_with_parent()
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        file = os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1 if name == "out" else 2)
        os.close(file)
        stream.reconfigure(encoding="utf-8")
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)

    from tiny_command import small_openings
    from tqdm import tqdm

    from minirlhf.cli.main import main
    from minirlhf.runs import run_task
    from minirlhf.runs.checkpoints import Checkpoints

    # tqdm's own lock is a semaphore of the system, which a killed process would leave behind.
    tqdm.set_lock(threading.RLock())
    run_task.load_task = lambda *_: small_openings()
    if save_every_step:
        Checkpoints.every_seconds = 0.0
    if file_limit is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    main(arguments)


class Kernel:
    """A kernel for notebooks, with what jupyter_client asks of a subprocess.Popen."""

    stdin = stdout = stderr = None

    def __init__(self, command: list[str], env: dict[str, str], cwd: str, **_: object):
        words = command[command.index("ipykernel_launcher") + 1 :]
        self.process = _start(_kernel, words, env, cwd)
        self.pid = self.process.pid
        while self.poll() is None and os.getpgid(self.pid) != self.pid:
            time.sleep(0.001)  # signals to its group shall not reach this process

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self) -> int | None:
        self.process.join()
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()


def _kernel(arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """The kernel, in its own process and process group."""
    os.setsid()
    _end_with_parent()
    os.environ.clear()
    os.environ.update(environment | {"JPY_PARENT_PID": str(os.getppid())})
    os.chdir(folder)

    import matplotlib
    from ipykernel.kernelapp import launch_new_instance

    # A kernel asks for it by a variable, which matplotlib read when it was imported.
    matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"
    launch_new_instance(argv=arguments)
