"""Batches on a real Ray cluster of two nodes on this machine."""

import importlib
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import test_storage  # noqa: F401  registers a store
import torch
from test_pipeline import photo

from ropetp_cli import batch
from ropetp_cli.batch import Job, capture_one
from ropetp_cli.errors import RopeTPError
from ropetp_cli.pipeline import CaptureOptions
from ropetp_cli.video.writer import VideoWriter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
ray = pytest.importorskip("ray")
TOLD = vars(CaptureOptions(steps=5, formats=("npz",), previews=(), device="cpu"))


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()


@pytest.fixture(autouse=True)
def one_core():
    """What is captured here has as many cores as a node: sums in other pieces end in other
    digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def videos(tmp_path) -> list[Path]:
    frame = photo()[330:970, :640]
    paths = [tmp_path / "in" / f"{number}.mp4" for number in range(3)]
    paths[0].parent.mkdir()
    for number, path in enumerate(paths):
        with VideoWriter(path, (640, 640), 24) as video:
            for index in range(14):
                video.write(np.roll(frame, -index - number, axis=1))
    return paths


def dies_once(job: Job, told, force, progress):
    """Captures, but the first worker at a video is killed when its poses begin."""
    mark = Path(job.run).with_suffix(".killed")

    def kill(stage, total):
        if stage == "pose" and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return batch._reporter(lambda news: None, 0)(stage, total)

    return capture_one(job, told, force, kill)


def test_lost_workers_lose_nothing(cluster, videos, tmp_path):
    from ropetp_cli.cluster import capture_on_ray

    local = [Job(str(video), str(tmp_path / "local" / video.stem)) for video in videos]
    for job in local:
        assert capture_one(job, TOLD).result == batch.DONE
    jobs = {n: Job(job.video, str(tmp_path / "far" / Path(job.run).name))
            for n, job in enumerate(local)}  # fmt: skip
    (tmp_path / "far").mkdir()
    outcomes = {
        news.number: news.outcome
        for news in capture_on_ray(jobs, TOLD, address=cluster.address, work=dies_once)
    }
    assert {n: o.result for n, o in outcomes.items()} == dict.fromkeys(jobs, batch.DONE)
    assert len(list((tmp_path / "far").glob("*.killed"))) == len(jobs)
    for number, job in jobs.items():
        assert batch.last_report(Path(job.run))["reused"] == ["people"]
        assert_same_motions(Path(job.run), Path(local[number].run))


def assert_same_motions(far: Path, near: Path) -> None:
    names = sorted(path.name for path in near.glob("person_*.npz"))
    assert names and names == sorted(path.name for path in far.glob("person_*.npz"))
    for name in names:
        with np.load(far / name) as one, np.load(near / name) as other:
            for key in other.files:
                np.testing.assert_array_equal(one[key], other[key], err_msg=key)


def test_lost_workers_lose_nothing_of_far_runs(cluster, videos, tmp_path, monkeypatch):
    """Nodes that share nothing but a store, which a worker of one leaves in the middle."""
    from ropetp_cli.cluster import capture_on_ray

    near, root = Job(str(videos[0]), str(tmp_path / "local")), tmp_path / "store"
    assert capture_one(near, TOLD).result == batch.DONE
    (root / "in").mkdir(parents=True)
    shutil.copy(videos[0], root / "in" / "0.mp4")

    tests = str(Path(__file__).parent)

    def work(job: Job, told, force, progress):
        os.environ["BUCKET"] = str(root)
        sys.path.insert(0, tests)
        importlib.import_module("test_storage")  # registers the store
        mark = root / "killed"

        def kill(stage, total):
            if stage == "pose" and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return batch._reporter(lambda news: None, 0)(stage, total)

        return capture_one(job, told, force, kill)

    monkeypatch.setenv("BUCKET", str(root))
    out = batch.place("bucket://out")
    ledger = batch.Ledger(batch.find_jobs(batch.place("bucket://in"), out), TOLD, out)
    news = capture_on_ray({0: ledger.jobs[0]}, TOLD, address=cluster.address, work=work)
    outcomes = [item.outcome for item in batch.follow(news, ledger)]
    assert [outcome.result for outcome in outcomes] == [batch.DONE], outcomes
    assert (root / "killed").exists()
    run = root / "out" / "0_ropetp"
    assert batch.last_report(run)["reused"] == ["people"]
    assert_same_motions(run, Path(near.run))
    again = batch.Ledger(ledger.jobs, TOLD, out)
    again.settle_finished()
    assert again.counts == {batch.BEFORE: 1}


def test_a_video_that_always_kills_its_worker_fails_alone(cluster, videos, tmp_path):
    from ropetp_cli.cluster import capture_on_ray

    def first_dies(job, told, force, progress):
        if Path(job.video).stem == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        return batch.Outcome(batch.DONE)

    jobs = {n: Job(str(video), str(tmp_path / video.stem)) for n, video in enumerate(videos)}
    outcomes = {
        news.number: news.outcome.result
        for news in capture_on_ray(jobs, TOLD, address=cluster.address, work=first_dies)
    }
    assert outcomes == {0: batch.FAILED, 1: batch.DONE, 2: batch.DONE}


def test_no_cluster_is_one_line(tmp_path):
    from ropetp_cli.cluster import capture_on_ray

    with pytest.raises(RopeTPError, match="ray start --head") as error:
        next(capture_on_ray({0: Job("a.mp4", "a")}, TOLD, address="127.0.0.1:1"))
    assert "\n" not in str(error.value)
