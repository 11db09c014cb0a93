"""Work shared out over processes of this machine: results come as they are made, and all end with whoever asked."""

import multiprocessing
import os
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TypeVar, cast

import torch

from srpo.devices import device_of

Share = TypeVar("Share")
Result = TypeVar("Result")


def share_out(
    work: Callable[[Share, torch.device], Iterator[Result]],
    shares: Sequence[Share],
    num_threads: int | None = None,
    apart: bool = False,
) -> Iterator[Result]:
    """What `work` yields of each share: here if there is but one, else by a process each, on the devices in turn.

    All travels pickled. `num_threads`: of torch in each process, its own number if None. `apart`: one, too, in a
    process, which gives back what memory it took of a device. What a process raises is
    raised here as soon as it does, a RuntimeError where one dies, and the others are ended.
    """
    if len(shares) <= 1 and not apart:
        for share in shares:
            yield from work(share, device_of(0))
        return
    context = multiprocessing.get_context("spawn")
    processes: dict[Connection, BaseProcess] = {}
    try:
        for rank, share in enumerate(shares):
            ours, theirs = context.Pipe(duplex=False)
            arguments = (theirs, work, share, device_of(rank), num_threads)
            processes[ours] = context.Process(target=_serve, args=arguments, daemon=True)
            processes[ours].start()
            theirs.close()
        working = dict(processes)
        while working:
            for pipe in cast(list[Connection], wait(list(working))):
                try:
                    result = pipe.recv()
                except EOFError:
                    process = working.pop(pipe)
                    process.join()
                    if process.exitcode:
                        raise RuntimeError(f"one of the processes died (exit code {process.exitcode})") from None
                    continue
                if isinstance(result, Exception):
                    raise result
                yield result
    finally:
        for process in processes.values():
            if process.pid:
                process.terminate()
                process.join()


def _serve(
    pipe: Connection,
    work: Callable[[Share, torch.device], Iterator[Result]],
    share: Share,
    device: torch.device,
    num_threads: int | None,
) -> None:
    """Entry point of a process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if num_threads:
        torch.set_num_threads(num_threads)
    try:
        for result in work(share, device):
            pipe.send(result)
    except Exception as error:
        error.add_note(traceback.format_exc())
        pipe.send(_sendable(error))


def _sendable(error: Exception) -> Exception:
    """The error, or its text where it does not survive the way to another process."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own, a moment ago
    except Exception:
        told = RuntimeError(f"{type(error).__name__}: {error}")
        told.__notes__ = error.__notes__
        return told
    return error


def _end_with_parent() -> None:
    """A parent that is killed can end nobody."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
