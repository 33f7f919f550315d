"""The same work on a Ray cluster: one task a video, lost workers retried.

Paths are those of a file system that all nodes see, or URLs of an object store. A video whose
worker or node is lost goes on, on another one, from the stages stored in its run directory; results
do not depend on where they were computed, given the same kind of device.
"""

import os
import socket
from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ropetp_cli.batch import FAILED, Job, News, Outcome, Work, capture_one
from ropetp_cli.errors import RopeTPError, first_line
from ropetp_cli.storage import place

#: How often a video is begun again when its worker is lost.
RETRIES = 5
#: The start of a video on a worker is told of after this long at most, s.
POLL_SECONDS = 1.0


def capture_on_ray(
    jobs: Mapping[int, Job],
    told: Mapping[str, Any],
    force: bool = False,
    address: str = "auto",
    work: Work = capture_one,
) -> Generator[News, None, None]:
    """Have ``work`` done on ``jobs`` by the Ray cluster at ``address``.

    A video takes a core, or a GPU where ``--device`` asks for one or leaves the choice and the
    cluster has some. Closing the iterator cancels what is left. RopeTPError when there is no
    cluster to reach.
    """
    try:
        import ray
        from ray.exceptions import RayError
    except ImportError as error:
        raise RopeTPError("--ray needs Ray: pip install 'ropetp[ray]'") from error
    joined = not ray.is_initialized()
    if joined:
        try:
            _knock(address)
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError) as error:
            raise RopeTPError(
                f"--ray {address}: no cluster to reach ({first_line(error)}); "
                "start one with `ray start --head`"
            ) from error
    gpus = ray.cluster_resources().get("GPU", 0) > 0
    needs = {"num_gpus": 1} if told.get("device") in ("auto", "cuda") and gpus else {"num_cpus": 1}
    task = ray.remote(max_retries=RETRIES, **needs)(_task)
    pending = {}
    try:
        for number, job in jobs.items():
            there = replace(job, video=_from_anywhere(job.video), run=_from_anywhere(job.run))
            pending[task.remote(work, there, _absolute(told), force)] = number
        while pending:
            ready, _ = ray.wait(list(pending), timeout=POLL_SECONDS)
            for reference in ready:
                number = pending.pop(reference)
                try:
                    outcome = ray.get(reference)
                except RayError as error:
                    outcome = Outcome(FAILED, message=f"{jobs[number].video}: {first_line(error)}")
                yield News(number, outcome=outcome)
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        if joined:
            ray.shutdown()


def _knock(address: str) -> None:
    """OSError where nobody answers at HOST:PORT; Ray itself would go on asking for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _from_anywhere(text: str) -> str:
    there = place(text)
    return os.path.abspath(there) if isinstance(there, Path) else text


def _absolute(told: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the files they name as they are called from anywhere."""
    files = {
        name: type(told[name])(os.path.abspath(told[name]))
        for name in ("weights", "body", "detector")
        if told.get(name) and os.path.exists(told[name])
    }
    return {**told, **files}


def _task(work: Work, job: Job, told: dict[str, Any], force: bool) -> Outcome:
    """Runs on a worker."""
    return work(job, told, force, None)
