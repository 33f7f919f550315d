"""``ropetp train``: the paper's two training loops, Pinpoint's, and Rope's over time."""

from pathlib import Path

import click


def drawn_meanwhile(command):
    """The options of crops that are drawn while a network trains on them."""
    for option in (
        click.option("--capacity", type=click.IntRange(64), default=150_000, show_default=True,
                     help="New crops kept, 200 KB each, where the network is."),
        click.option("--detector", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                     help="What looks at them (python -m ropetp_cli.training.detections DATA "
                     "--trace FILE)."),
        click.option("--fresh", type=click.Path(exists=True, dir_okay=False, path_type=Path),
                     help="Motion capture (mocap_train.npz) to draw new crops of all the time; "
                     "the first --share is then theirs, the others those of --set. Rope takes "
                     "them with --train-trunk."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group()
def command() -> None:
    """Train Rope, Pinpoint, Rope over time or the trajectory denoiser."""


@command.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Weights to write (.safetensors); the checkpoint lies beside them.",
)
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True
)
@click.option(
    "--resume",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Go on from a checkpoint (.ckpt).",
)
@click.option(
    "--start",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Weights (.safetensors) to begin from, with a fresh optimizer.",
)
@click.option("--errors", nargs=2, metavar="TRAIN VAL",
              type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="What Rope saw of the two files (python -m "
              "ropetp_cli.training.filming), to train and to watch with.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1), help="Train so many steps, not minutes.")
@click.option("--clean", type=click.FloatRange(0, 1), default=0.5, show_default=True,
              help="The share of conditions without a pose network's errors.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=24, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=1e-3,
    show_default=True,
    help="Highest learning rate.",
)
@click.option(
    "--width",
    type=click.IntRange(16),
    default=128,
    show_default=True,
    help="Of a new network; a multiple of 16.",
)
@click.option(
    "--window",
    type=click.IntRange(8),
    default=120,
    show_default=True,
    help="Frames a new network sees at once.",
)
@click.option("--condition", type=click.Choice(["joints", "rot6d"]), default="joints",
              show_default=True,
              help="What guides a new network: places or rotations.")  # fmt: skip
@click.option("--output", type=click.Choice(["pivots", "xyz"]), default="pivots",
              show_default=True,
              help="What a new network says: how the path moves or, as in the paper, where it "
              "is.")  # fmt: skip
@click.option(
    "--check-minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Between validations, each with a checkpoint.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of torch.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--seed", type=int, default=0, show_default=True)
def trajectory(
    data: Path,
    out: Path,
    minutes: float,
    resume: Path | None,
    start: Path | None,
    errors: tuple[Path, Path] | None,
    steps: int | None,
    clean: float,
    batch: int,
    rate: float,
    width: int,
    window: int,
    condition: str,
    output: str,
    check_minutes: float,
    threads: int | None,
    device: str,
    seed: int,
) -> None:
    """Train TrajDenoiser on DATA/mocap_train.npz, watched on DATA/mocap_val.npz."""
    import torch

    from ropetp_cli.training.trajectory import TrajTraining, train
    from ropetp_cli.trajectory.denoiser import TrajConfig

    if threads:
        torch.set_num_threads(threads)
    training = TrajTraining(
        minutes=minutes, steps=steps, batch=batch, rate=rate, clean=clean,
        check_minutes=check_minutes, seed=seed,
    )  # fmt: skip
    train(
        data,
        out,
        training,
        TrajConfig(
            width=width, feedforward=2 * width, window=window, condition=condition, output=output
        ),
        resume=resume,
        start=start,
        device=device,
        errors=errors,
        report=lambda line: click.echo(line, err=True),
    )


@command.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Weights to write (.safetensors); the checkpoint lies beside them.",
)
@click.option(
    "--backbone",
    type=click.Choice(["blazepose", "hrnet_w32", "hrnet_w48"]),
    default="blazepose",
    show_default=True,
)
@click.option(
    "--row",
    type=click.Choice(["baseline", "transformer", "hagt-mlp", "no-whole-body", "rope"]),
    default="rope",
    show_default=True,
    help="The network, or a lesser one of the paper's Table 4.",
)
@click.option(
    "--trunk",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The BlazePose landmark .tflite that a blazepose backbone starts from.",
)
@click.option(
    "--train-trunk",
    is_flag=True,
    help="Train the whole network; else the trunk is frozen and its maps cached.",
)
@click.option("--train-after", metavar="MAP", help="With --train-trunk: keep a BlazePose trunk "
              "frozen up to this map, such as pose32; what a CPU can bear.")  # fmt: skip
@click.option(
    "--start",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Weights (.safetensors) to begin from, with a fresh optimizer.",
)
@click.option("--grid", type=click.IntRange(8, 64),
              help="Places across a BlazePose backbone's map, if others than the weights "
              "have.")  # fmt: skip
@click.option("--cache", type=click.Path(path_type=Path), help="Where; DATA/cache if not given.")
@click.option(
    "--resume",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Go on from a checkpoint (.ckpt).",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="This leg's length, the cache not counted.",
)
@click.option(
    "--check-minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="Between looks at the test sets, each with a checkpoint.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    help="Of the whole training, over all its legs; this leg is all of it if not given.",
)
@click.option(
    "--attention-until",
    type=click.FloatRange(0, 1),
    default=0.4,
    show_default=True,
    help="The share of the training after which the segmentation loss goes.",
)
@click.option(
    "--trunk-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=3e-4,
    show_default=True,
    help="Highest learning rate of a BlazePose trunk, as a share of each weight's size.",
)
@click.option("--batch", type=click.IntRange(2), default=64, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=1e-3,
    show_default=True,
    help="Highest learning rate.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Processes that make crops, with --train-trunk.",
)
@click.option("--set", "sets", multiple=True, metavar="NAME", default=("syn_train", "real_train"),
              show_default=True, help="A crop set of DATA to train on; repeat.")  # fmt: skip
@click.option("--test", "tests", multiple=True, metavar="NAME", default=("syn_test", "real_val"),
              show_default=True, help="A crop set of DATA to watch; repeat.")  # fmt: skip
@click.option("--share", multiple=True, type=click.FloatRange(min=0), default=(0.4, 0.6),
              show_default=True, help="How often a row of a batch is one of each set.")  # fmt: skip
@click.option("--variants", multiple=True, type=click.IntRange(1), default=(1, 2),
              show_default=True, help="Without --train-trunk: varied copies of each crop of "
              "each set.")  # fmt: skip
@drawn_meanwhile
@click.option("--threads", type=click.IntRange(1), help="CPU threads of torch.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--seed", type=int, default=0, show_default=True)
def rope(threads: int | None, **options) -> None:
    """Train Rope on the crop sets of DATA (syn_train, real_train), watched on two others."""
    import torch

    from ropetp_cli.training.rope import TrainOptions, train

    if threads:
        torch.set_num_threads(threads)
    if len(options["share"]) != len(options["sets"]) + bool(options["fresh"]):
        raise click.UsageError("--share: give one for each set, with --fresh one before them")
    if not options["train_trunk"] and len(options["variants"]) != len(options["sets"]):
        raise click.UsageError("--variants: give one for each set")
    if options["fresh"] and not (options["train_trunk"] and options["detector"]):
        raise click.UsageError("--fresh needs --train-trunk and --detector")
    train(TrainOptions(**options), log=lambda line: click.echo(line, err=True))


@command.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="Weights to write (.safetensors).")  # fmt: skip
@click.option("--start", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Weights (.safetensors) to begin from, MoveNet's if not given.")  # fmt: skip
@click.option("--frozen", type=click.IntRange(0, 7), default=3, show_default=True,
              help="The stem and so many of the trunk's stages are not trained.")  # fmt: skip
@click.option("--set", "sets", multiple=True, metavar="NAME", default=("syn_train", "real_train"),
              show_default=True, help="A crop set of DATA to train on; repeat.")  # fmt: skip
@click.option("--share", multiple=True, type=click.FloatRange(min=0), default=(0.7, 0.3),
              show_default=True, help="How often a crop is one of each set.")  # fmt: skip
@click.option("--test", "tests", multiple=True, metavar="NAME", default=("syn_test", "real_val"),
              show_default=True, help="A crop set of DATA to watch; repeat.")  # fmt: skip
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=30.0,
              show_default=True, help="This leg's length.")  # fmt: skip
@click.option("--check-minutes", type=click.FloatRange(min=0, min_open=True), default=10.0,
              show_default=True, help="Between looks at the tests, each with weights.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=2e-3,
              show_default=True, help="Highest learning rate of the new layers.")  # fmt: skip
@click.option("--trunk-rate", type=click.FloatRange(min=0, min_open=True), default=1e-3,
              show_default=True, help="Of MoveNet's, as a share of their size.")  # fmt: skip
@click.option("--workers", type=click.IntRange(0), default=1, show_default=True,
              help="Processes that make crops.")  # fmt: skip
@drawn_meanwhile
@click.option("--threads", type=click.IntRange(1), help="CPU threads of torch.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--seed", type=int, default=0, show_default=True)
def pinpoint(threads: int | None, **options) -> None:
    """Train Pinpoint on the crop sets of DATA, watched on two others."""
    import torch

    from ropetp_cli.training.pinpoint import PinpointTraining, train

    if threads:
        torch.set_num_threads(threads)
    if len(options["share"]) != len(options["sets"]) + bool(options["fresh"]):
        raise click.UsageError("--share: give one for each set, with --fresh one before them")
    if options["fresh"] and not options["detector"]:
        raise click.UsageError("--fresh needs --detector")
    train(PinpointTraining(**options), report=lambda line: click.echo(line, err=True))


@command.command()
@click.argument("seen", nargs=-1, required=True,
                type=click.Path(exists=True, dir_okay=False, path_type=Path))  # fmt: skip
@click.option("--watch", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              required=True, help="What Rope saw of other people, to watch with.")  # fmt: skip
@click.option("--mocap", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Motion capture (mocap_train.npz): half of the windows are then of it, before "
              "cameras that never were.")  # fmt: skip
@click.option("--imagined", type=click.FloatRange(0, 1), default=0.5, show_default=True,
              help="The share of them.")  # fmt: skip
@click.option("--mixed", type=click.FloatRange(0, 1), default=0.5, show_default=True,
              help="The share of these whose trunk and arms move as in another clip.")  # fmt: skip
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True,
              help="Weights to write (.safetensors).")  # fmt: skip
@click.option("--start", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Weights (.safetensors) to begin from, with a fresh optimizer.")  # fmt: skip
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=30.0,
              show_default=True, help="This leg's length.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1), help="Train so many steps, not minutes.")
@click.option("--check-minutes", type=click.FloatRange(min=0, min_open=True), default=5.0,
              show_default=True, help="Between looks at --watch, each with weights.")  # fmt: skip
@click.option("--width", type=click.IntRange(16), default=256, show_default=True,
              help="Of a new network.")  # fmt: skip
@click.option("--dropout", type=click.FloatRange(0, 0.9), default=0.1, show_default=True,
              help="Of a new network.")  # fmt: skip
@click.option("--batch", type=click.IntRange(1), default=8, show_default=True)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=1e-3,
              show_default=True, help="Highest learning rate.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1), help="CPU threads of torch.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--seed", type=int, default=0, show_default=True)
def temporal(
    seen: tuple[Path, ...],
    watch: Path,
    out: Path,
    mocap: Path | None,
    start: Path | None,
    width: int,
    dropout: float,
    threads: int | None,
    device: str,
    **options,
) -> None:
    """Train Rope over time on what Rope saw of filmed motion capture, SEEN.

    ``python -m ropetp_cli.training.filming`` writes such files.
    """
    import torch

    from ropetp_cli.body.model import load_body
    from ropetp_cli.rope.temporal import TemporalConfig
    from ropetp_cli.training.temporal import TemporalTraining, train

    if threads:
        torch.set_num_threads(threads)
    train(
        list(seen), watch, out, load_body(), TemporalTraining(**options),
        mocap, TemporalConfig(width=width, dropout=dropout), start, device,
        report=lambda line: click.echo(line, err=True),
    )  # fmt: skip
