"""Command line: arguments -> options -> stage. Prints user errors as lines and sets the exit code."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgsr import __version__
from tgsr.utils.errors import EXIT_STOPPED, Stopped, UserError

if TYPE_CHECKING:  # torch takes seconds to import: --help and wrong arguments must not wait for it
    from tgsr.config.schema import Options
    from tgsr.engine.context import Context
    from tgsr.engine.runner import Runner

logger = logging.getLogger("tgsr")
EXIT_USER_ERROR = 2
MEND_TENSORBOARD = "pip uninstall -y tb-nightly tensorboard && pip install tensorboard"


def _option_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-opt", "--opt", required=True, metavar="FILE.yml", help="option file")
    parser.add_argument("--force_yml", nargs="+", default=[], metavar="KEY:SUB=VALUE", help="override options")


def _stage_arguments(parser: argparse.ArgumentParser, *, check: str) -> None:
    _option_arguments(parser)
    parser.add_argument("--gpus", type=_num_gpus, metavar="N|all", help="train on so many GPUs of this machine")
    parser.add_argument("--launcher", choices=["auto", "none", "pytorch", "slurm"], default="auto")
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help="accepted and ignored")
    parser.add_argument("--debug", action="store_true", help="validate, save and print after few iterations")
    parser.add_argument(
        "--check", nargs="?", const="first", choices=["first", "all"], help=f"{check}; all: of every stage of a study"
    )  # fmt: skip


def _inference_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", "--input", type=Path, required=True, metavar="FILE_OR_FOLDER")
    parser.add_argument("-o", "--output", type=Path, default=Path("results/inference"), metavar="FOLDER")
    parser.add_argument(
        "-w", "--weights", type=Path, metavar="WEIGHTS", help="file, or a name of tgsr weights; needed without --router"
    )
    parser.add_argument(
        "-opt", "--opt", type=Path, metavar="FILE.yml", help="names the weights' network_g, where they do not tell"
    )
    parser.add_argument("--router", type=Path, metavar="router.json", help="choose the network for each image (GRIDS)")
    parser.add_argument(
        "--on-unknown",
        choices=["keep", "restore"],
        default="restore",
        help="what --router does to images unlike all it knows",
    )
    parser.add_argument(
        "-t", "--tile", type=_number(int, 0), metavar="PIXELS",
        help="tile edge in input pixels; 0: never tile; default: images up to 1.5 megapixels whole (0.25 on a CPU)",
    )  # fmt: skip
    parser.add_argument(
        "-s", "--outscale", type=_number(float, 0.01), help="output size / input size; default: the network's scale"
    )
    parser.add_argument("--suffix", default="", help="added to output names")
    parser.add_argument("--ext", default="auto", help="auto (the input's), png, jpg, ...")
    parser.add_argument(
        "--quality", type=_number(int, 1), help="of JPEG and WebP, 1 to 100; default: 95, lossless WebP stays lossless"
    )
    parser.add_argument(
        "--param_key", metavar="KEY", help="entry of the weights file; default: averaged weights where there are any"
    )
    parser.add_argument("--precision", choices=["auto", "fp32", "bf16", "fp16", "half"], default="fp32")
    parser.add_argument(
        "--half", dest="precision", action="store_const", const="half", help="fp16 on a GPU, bf16 on a CPU"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.set_defaults(run=_infer)


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-w", "--weights", type=Path, required=True, metavar="WEIGHTS", help="file, or a name of tgsr weights"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, nargs="+", metavar="OUT", help="OUT.safetensors, OUT.onnx or both"
    )
    parser.add_argument(
        "-opt", "--opt", type=Path, metavar="FILE.yml", help="names the weights' network_g, where they do not tell"
    )
    parser.add_argument("--name", help="on the model card; default: the run's")
    parser.add_argument("--metrics", type=Path, metavar="metrics.json", help="for the model card; default: the run's")
    parser.add_argument(
        "--size", type=_number(int, 1), nargs=2, default=(64, 64), metavar=("H", "W"), help="of ONNX's example"
    )
    parser.set_defaults(run=_export)


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-i", "--input", type=Path, required=True, metavar="FOLDER", help="restored images")
    parser.add_argument("--gt", type=Path, metavar="FOLDER", help="ground truth; without it only NIQE")
    parser.add_argument("-opt", "--opt", metavar="FILE.yml", help="whose val.metrics; default: PSNR-Y, SSIM-Y, NIQE")
    parser.add_argument("--crop_border", type=_number(int, 0), default=4, help="without -opt; default: 4")
    parser.add_argument("--scale", type=_number(int, 1), help="cut the ground truth to a multiple of it")
    parser.add_argument("--suffix", default="", help="what restored names have beyond those of the ground truth")
    parser.add_argument("--name", help="of the method; default: the folder's")
    parser.add_argument("-o", "--output", type=Path, help="default: results/<name>/metrics.json")
    parser.set_defaults(run=_evaluate)


def _run_arguments(commands: Any) -> None:
    """`list`, `runs`, `compare`, `diff`: what there is to use, and what there is already."""
    kinds = commands.add_parser("list", help="networks, losses, degradations, ... with a line each; or one by its name")
    kinds.add_argument("what", nargs="?", help="a kind (networks, losses, ...) or the name of a component")
    kinds.set_defaults(run=_list)
    for name, run, text in (
        ("runs", _runs, "list runs with state and numbers, and write results/index.html"),
        ("compare", _compare, "numbers, curves and options of several runs on one page"),
        ("diff", _diff, "options in which two runs differ"),
    ):
        parser = commands.add_parser(name, help=text)
        if name != "runs":
            parser.add_argument("names", nargs=2 if name == "diff" else "+", metavar="RUN")
        parser.add_argument("--experiments", type=Path, default=Path("experiments"))
        parser.add_argument("--results", type=Path, default=Path("results"))
        parser.set_defaults(run=run)


def _num_gpus(text: str) -> str:
    if text != "all" and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number of GPUs nor 'all'")
    return text


def _number(kind: type[int] | type[float], smallest: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if value < smallest:
            raise argparse.ArgumentTypeError(f"{text} is less than {smallest}")
        return value

    parse.__name__ = "number"
    return parse


def make_parser() -> argparse.ArgumentParser:
    """All subcommands."""
    parser = argparse.ArgumentParser(prog="tgsr", description="Train networks that restore real-world images.")
    parser.add_argument("--version", action="version", version=f"tgsr {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="run the stage of an option file: training by default")
    _stage_arguments(train, check="check options, data, memory and gradients; train nothing")
    train.add_argument("--auto_resume", action="store_true", help="continue the experiment if it exists")
    train.add_argument("--plan", action="store_true", help="print stages, budgets, times, disk and what is missing")
    train.add_argument("--expand", type=Path, metavar="FOLDER", help="write every stage of a study as an option file")
    train.add_argument(
        "--rehearse", nargs="?", const="full", choices=["full", "tiny"],
        help="run every stage at its smallest budget; tiny: narrow networks and small crops, too",
    )  # fmt: skip
    train.set_defaults(run=_train)

    test = commands.add_parser("test", help="measure weights on the sets under datasets.val")
    _stage_arguments(test, check="check options, data and weights; measure nothing")
    test.add_argument(
        "-w", "--weights", metavar="latest|best|ITERATION|FILE",
        help="default: the newest of the run; without a training, path.pretrain_network_g",
    )  # fmt: skip
    test.set_defaults(run=_test, auto_resume=False)

    _inference_arguments(commands.add_parser("infer", help="restore files and folders"))
    _export_arguments(commands.add_parser("export", help="write weights as safetensors or ONNX, with a model card"))
    _evaluate_arguments(commands.add_parser("evaluate", help="measure a folder of images restored elsewhere"))

    report = commands.add_parser("report", help="write the report of a finished run again")
    report.add_argument("name", help="name of the run")
    report.add_argument("--experiments", type=Path, default=Path("experiments"))
    report.add_argument("--results", type=Path, default=Path("results"))
    report.set_defaults(run=_report)

    _run_arguments(commands)

    preview = commands.add_parser("preview", help="draw a sheet of degraded tiles with their parameters")
    _option_arguments(preview)
    preview.add_argument("-o", "--output", type=Path, default=Path("results/preview.png"))
    preview.add_argument("-n", "--num", type=int, default=16, help="number of tiles")
    preview.add_argument("--seed", type=int, default=0)
    preview.set_defaults(run=_preview, debug=False)

    weights = commands.add_parser("weights", help="list published weights, or fetch them into weights/NAME.pth")
    weights.add_argument("names", nargs="*", metavar="NAME")
    weights.set_defaults(run=_weights)

    schema = commands.add_parser("schema", help="print the JSON schema of option files, for editors")
    schema.set_defaults(run=_schema)

    env = commands.add_parser("env", help="print versions and devices, for bug reports")
    env.set_defaults(run=_env)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 done, 1 failed, 2 the user can mend it, 75 stopped and resumable."""
    logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stderr, level=logging.WARNING)
    argv = list(sys.argv[1:] if argv is None else argv)
    arguments = make_parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.run
    try:
        num = _num_ranks(arguments)
        return _start_ranks(num, argv) if num > 1 else command(arguments)
    except UserError as error:
        rank = os.environ.get("RANK")
        if getattr(arguments, "debug", False) and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)  # for whoever wrote the component that raised it
        word = "\033[31merror:\033[0m" if sys.stderr.isatty() and "NO_COLOR" not in os.environ else "error:"
        print(f"{f'[rank {rank}] ' if rank else ''}{word} {error}", file=sys.stderr)  # noqa: T201 - the user's line
        _note(f"error: {error}")
        return EXIT_USER_ERROR
    except Stopped:
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        _note("interrupted")
        return 130
    except Exception:
        _note(traceback.format_exc())
        raise


def _note(text: str) -> None:
    """What is not logged, but printed, for `train.log`."""
    if "tgsr.engine.train_log" not in sys.modules:  # nothing has run yet
        return
    from tgsr.engine.train_log import TrainLog

    log = TrainLog.of_process()
    if log is not None:
        log.write(text)


def _num_ranks(arguments: argparse.Namespace) -> int:
    """Processes that `--gpus` asks for, once the options are known to be sound; 1: this one will do."""
    if getattr(arguments, "gpus", None) is None:
        return 1
    from tgsr.engine.launch import num_ranks

    return num_ranks(arguments.gpus, _load(arguments, notes=[]).device)


def _start_ranks(num: int, argv: Sequence[str]) -> int:
    from tgsr.engine.launch import start_ranks

    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--gpus")
    return start_ranks(num, parser.parse_known_args(argv)[1])


def _load(arguments: argparse.Namespace, notes: list[str] | None = None) -> Options:
    import tgsr.methods  # noqa: F401 - the rooms register their samplers, losses, networks and stages
    from tgsr.config.options import load_options

    notes = notes if os.environ.get("RANK", "0") == "0" else []  # one process tells them
    return load_options(arguments.opt, arguments.force_yml, debug=arguments.debug, notes=notes)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Inside, until the run itself catches them, signals end the process as a stopped one: it has nothing to save."""

    def stop(*_: object) -> None:
        raise Stopped

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    is_main = threading.current_thread() is threading.main_thread()
    old = {number: signal.signal(number, stop) for number in numbers if is_main}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def _context(arguments: argparse.Namespace, options: Options) -> Iterator[Context]:
    """This process among the others, from their meeting to their leave."""
    from tgsr.engine.context import Context, set_up_logging

    context = Context.create(
        device=options.device,
        num_threads=options.num_threads,
        launcher=arguments.launcher,
        auto_resume=arguments.auto_resume,
        debug=arguments.debug,
        deterministic=options.deterministic,
    )
    set_up_logging(rank=context.rank)
    context.after_stage, context.after_validation = _end_stage, _report_so_far
    try:
        yield context
    except Stopped:  # on all ranks
        context.close()
        raise
    except BaseException:
        context.fail()
        raise
    context.close()


def _train(arguments: argparse.Namespace) -> int:
    from tgsr.engine.runner import make_runner, run_stage
    from tgsr.engine.train_log import TrainLog

    TrainLog.install()
    with _stoppable(), _context(arguments, options := _load(arguments)) as context:
        if arguments.check:
            return _check(make_runner(options, context), every=arguments.check == "all")
        if arguments.plan or arguments.expand or arguments.rehearse:
            return _study(arguments, make_runner(options, context))
        if not run_stage(options, context):
            logger.warning("%s was stopped; --auto_resume goes on from here", options.name)
            return EXIT_STOPPED
    return 0


def _study(arguments: argparse.Namespace, runner: Runner) -> int:
    """What can be done with a study besides running it."""
    from tgsr.engine.needs import all_stages, missing_lines
    from tgsr.study.plan import Plan
    from tgsr.study.rehearsal import Rehearsal
    from tgsr.study.study import Study

    if arguments.plan:
        if runner.context.is_main:
            print("\n".join([*Plan(all_stages(runner)).lines(), *missing_lines(runner)]))  # noqa: T201
        return 0
    if not isinstance(runner, Study):
        remedy = "give a file with run: {type: Study, ...}; --check tries one step of any other"
        raise UserError("this is no study", place=arguments.opt, remedy=remedy)
    if arguments.expand:
        for path in runner.expand(arguments.expand) if runner.context.is_main else ():
            print(path)  # noqa: T201
        return 0
    rehearsal = Rehearsal(runner, is_tiny=arguments.rehearse == "tiny")
    rehearsal.run()
    for outcome in rehearsal.failed:
        print(f"{outcome.name}: {outcome.word}: {outcome.why}", file=sys.stderr)  # noqa: T201
    return EXIT_USER_ERROR if rehearsal.failed else 0


def _check(runner: Runner, *, every: bool) -> int:
    from tgsr.study.study import Stages
    from tgsr.utils.files import unwritable

    check = runner.check_every if every and isinstance(runner, Stages) else runner.check
    roots = (runner.options.path.experiments_root, runner.options.path.results_root)
    problems = [problem for root in roots if (problem := unwritable(root))] + [*runner.missing_files()] or check()
    if not runner.context.is_main:
        return EXIT_USER_ERROR if problems else 0
    for problem in problems:
        print(problem, file=sys.stderr)  # noqa: T201
    print(f"{runner.options.name}: {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")  # noqa: T201
    return EXIT_USER_ERROR if problems else 0


def _test(arguments: argparse.Namespace) -> int:
    from tgsr.engine.runner import claimed
    from tgsr.engine.stages import Test, is_training

    options = _load(arguments)
    with _context(arguments, options) as context:
        spec = options.run
        measures = spec is None or spec.type in ("Chain", "Test") or is_training(options)
        if spec is not None and spec.type == "Study":
            remedy = f"python train.py -opt {arguments.opt}; the stage Test measures weights"
            raise UserError("a study trains, too", place=options.name, remedy=remedy)
        if not measures and arguments.weights is not None:
            problem = f"{spec.type} takes no -w"
            raise UserError(problem, place=options.name, remedy="name the weights in the option file")
        runner = (
            Test.of_run(options, context, arguments.weights)
            if measures
            else spec.build(options=options, context=context)
        )
        if arguments.check:
            return _check(runner, every=arguments.check == "all")
        with context.catch_signals(), claimed(runner):
            runner.run()
            if context.should_stop():
                return EXIT_STOPPED
            if context.is_main:
                _write_report(options)
    return 0


def _infer(arguments: argparse.Namespace) -> int:
    import tgsr.methods  # noqa: F401
    from tgsr.engine.context import resolve_device, set_up_logging
    from tgsr.engine.inference import ImageRestorer, infer_files, load_network

    set_up_logging(rank=0)
    device = resolve_device(arguments.device)

    def restorer(weights: Path, option_file: Path | None) -> ImageRestorer:
        chosen = option_file or arguments.opt
        net, scale = load_network(weights, device, option_file=chosen, key=arguments.param_key)
        return ImageRestorer(
            net,
            scale=scale,
            device=device,
            precision=arguments.precision,
            tile=arguments.tile,
            outscale=arguments.outscale,
        )

    if arguments.router is not None:
        from tgsr.methods.grids.router import routed_restorers

        choose = routed_restorers(arguments.router, restorer, device=device, on_unknown=arguments.on_unknown)
    elif arguments.weights is not None:
        single = restorer(arguments.weights, None)
        choose = lambda image: (single, {})  # noqa: E731
    else:
        raise UserError("there are no weights", remedy="give -w WEIGHTS or --router router.json")
    outcome = infer_files(
        arguments.input,
        arguments.output,
        choose,
        suffix=arguments.suffix,
        extension=arguments.ext,
        quality=arguments.quality,
    )
    left_out = f", {len(outcome.left_out)} left out or in part" if outcome.left_out else ""
    print(f"{len(outcome.written)} restored, {len(outcome.failed)} failed{left_out}: {arguments.output}")  # noqa: T201
    return 1 if outcome.failed or outcome.left_out else 0


def _export(arguments: argparse.Namespace) -> int:
    import tgsr.methods  # noqa: F401
    from tgsr.engine.context import set_up_logging
    from tgsr.engine.network_files import export_network

    set_up_logging(rank=0)
    card = export_network(
        arguments.weights,
        arguments.output,
        option_file=arguments.opt,
        name=arguments.name,
        metrics_file=arguments.metrics,
        onnx_size=tuple(arguments.size),
    )
    for path in (*arguments.output, card):
        print(path)  # noqa: T201
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    import tgsr.methods  # noqa: F401
    from tgsr.config.options import load_options
    from tgsr.engine.checkpoint import move_aside
    from tgsr.engine.context import resolve_device, set_up_logging
    from tgsr.engine.folders import default_metrics, evaluate_folder
    from tgsr.utils.files import read_json, write_json
    from tgsr.utils.lock import hold

    set_up_logging(rank=0)

    if arguments.opt is not None:
        options = load_options(arguments.opt)
        metrics = {name: spec.build() for name, spec in options.val.metrics.items()}
    else:
        metrics = default_metrics(crop_border=arguments.crop_border)
    name = arguments.name or arguments.input.resolve().name
    content = evaluate_folder(
        arguments.input, arguments.gt, metrics, name=name, suffix=arguments.suffix, scale=arguments.scale,
        device=resolve_device("auto"),
    )  # fmt: skip
    path = arguments.output or Path("results") / name / "metrics.json"
    with nullcontext() if arguments.output else hold(path.parent):
        if arguments.output is None and path.exists() and read_json(path).get("weights") != content["weights"]:
            move_aside(path.parent)  # numbers of a run, or of another folder
        write_json(path, content)
    for metric, value in content["datasets"][name]["metrics"].items():
        print(f"{metric} {value['mean']:.4f}  ({value['protocol']}, {value['num_images']} images)")  # noqa: T201
    print(path)  # noqa: T201
    return 0


def _write_report(options: Options) -> None:
    """The page of a run that left numbers; stages without numbers have reports of their own."""
    from tgsr.report.page import write_run_report

    experiment, results = _folders(options)
    if (results / "metrics.json").exists():
        logger.info("report: %s", write_run_report(experiment, results))


def _folders(options: Options) -> tuple[Path, Path]:
    """Of a run: below the experiments, and below the results."""
    path = options.path
    return Path(path.experiments_root) / options.name, Path(path.results_root) / options.name


def _report_so_far(options: Options) -> None:
    """The page of a run that goes on; a fault in it must not end the run."""
    from tgsr.report.page import write_run_report

    try:
        write_run_report(*_folders(options))
    except Exception as error:
        logger.warning("there is no report yet: %s: %s", type(error).__name__, error)


def _end_stage(options: Options) -> None:
    """After a stage that is done: its report, and the end of its `train.log`."""
    from tgsr.engine.train_log import TrainLog

    _write_report(options)
    log = TrainLog.of_process()
    if log is not None:
        log.end()


def _report(arguments: argparse.Namespace) -> int:
    from tgsr.report.page import write_run_report

    page = write_run_report(arguments.experiments / arguments.name, arguments.results / arguments.name)
    print(page)  # noqa: T201
    return 0


def _list(arguments: argparse.Namespace) -> int:
    import tgsr.methods  # noqa: F401
    from tgsr.config.catalogue import KINDS, find_component, list_components

    what = arguments.what
    lines: list[str] = []
    if what is None or what in KINDS:
        for kind, found in list_components(what).items():
            width = max((len(c.name) for c in found), default=0)
            lines += ["", f"{kind}:"] + [f"  {c.name:<{width}}  {c.summary}" for c in found]
    else:
        for component in find_component(what):
            lines += ["", f"{component.name} ({component.kind}): {component.summary}"]
            lines += [f"  {argument}{f'  - {note}' if note else ''}" for argument, note in component.arguments.items()]
    _print("\n".join(lines[1:]))
    return 0


def _runs(arguments: argparse.Namespace) -> int:
    from tgsr.report.runs import find_runs, runs_table, write_index

    found = find_runs(arguments.experiments, arguments.results)
    if not found:
        raise UserError(f"there are no runs in {arguments.experiments} and {arguments.results}", remedy="train one")
    _print(runs_table(found).to_text())
    _print(str(write_index(arguments.experiments, arguments.results)))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from tgsr.report.runs import compare_runs, diff_runs, find_run

    runs = [find_run(name, arguments.experiments, arguments.results) for name in arguments.names]
    folder = arguments.results / "compare" / "_and_".join(run.name.replace("/", "_") for run in runs)
    page, table = compare_runs(runs, folder)
    if table.columns:
        _print(table.to_text())
    for other in runs[1:]:
        _print(f"\n{runs[0].name} -> {other.name}")
        _print("\n".join(f"  {line}" for line in diff_runs(runs[0], other)) or "  the same options")
    _print(str(page))
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from tgsr.report.runs import diff_runs, find_run

    a, b = (find_run(name, arguments.experiments, arguments.results) for name in arguments.names)
    _print("\n".join(diff_runs(a, b)) or "the same options")
    return 0


def _print(text: str) -> None:
    try:
        print(text, flush=True)  # noqa: T201
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its last flush


def _preview(arguments: argparse.Namespace) -> int:
    from tgsr.degradations.contact_sheet import contact_sheet
    from tgsr.engine import build
    from tgsr.utils.image_io import save_image

    options = _load(arguments)
    tasks = build.build_tasks(options)
    if options.datasets.train is None:
        raise UserError("a preview needs ground-truth images", place="datasets.train", remedy="name a GT set")
    dataset = options.datasets.train.dataset.build(scale=options.scale, tasks=tasks)
    images = [dataset.source.read(i * len(dataset) // arguments.num) for i in range(arguments.num)]
    sheet = contact_sheet(images, tasks, num=arguments.num, seed=arguments.seed)
    save_image(arguments.output, sheet)
    print(arguments.output)  # noqa: T201
    return 0


def _weights(arguments: argparse.Namespace) -> int:
    from tgsr.models.zoo import fetch, listing

    for line in listing() if not arguments.names else ():
        print(line)  # noqa: T201
    for name in arguments.names:
        fetch(name, say=print)
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    import tgsr.methods  # noqa: F401
    from tgsr.config.options import json_schema

    _print(json.dumps(json_schema(), indent=1))
    return 0


def _env(arguments: argparse.Namespace) -> int:
    import importlib.metadata as metadata
    import platform

    import cv2
    import torch

    print(f"tgsr {__version__}, Python {platform.python_version()}, {platform.platform()}")  # noqa: T201
    for package in ("torch", "torchvision", "numpy", "basicsr", "spandrel", "lpips", "tensorboard"):
        try:
            print(f"{package} {metadata.version(package)}")  # noqa: T201
        except metadata.PackageNotFoundError:
            print(f"{package} not installed")  # noqa: T201
    if any(distribution.name == "tb-nightly" for distribution in metadata.distributions()):
        print(f"tensorboard does not start beside basicsr's tb-nightly: {MEND_TENSORBOARD}")  # noqa: T201
    print(f"OpenCV {cv2.__version__}")  # noqa: T201 - from any of its four packages
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"CPU threads {torch.get_num_threads()}, GPUs: {', '.join(devices) or 'none'}")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
