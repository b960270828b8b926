"""Registry of the commands, in the order of the help."""

from __future__ import annotations

import typer
from gradscope_cli import (
    compare,
    demo,
    diagnose,
    export,
    inspect,
    plot,
    recover,
    report,
    run,
    schedule,
    search,
    suggest,
    tolerance,
    tune,
    watch,
)


def register(app: typer.Typer) -> None:
    """Add every command."""
    app.command(epilog="Example: gradscope demo --out gradscope-demo")(demo.demo)
    app.command(epilog="Example: gradscope run --restart delayed --out fix -- python train.py --out {out}")(run.run)
    app.command(epilog="Example: gradscope inspect run.h5")(inspect.inspect)
    app.command(epilog="Example: gradscope diagnose run.h5 --json")(diagnose.diagnose)
    app.command(epilog="Example: gradscope tolerance runs/*.h5")(tolerance.tolerance)
    app.command(
        epilog="Example: gradscope search --low 1e-4 --high 1 --out level -- "
        "python train.py --weight-decay {weight_decay} --seed {seed} --out {out}"
    )(search.search)
    app.command(
        epilog="Example: gradscope tune --metric accuracy --low 1e-5 --high 0.1 --out best -- "
        "python train.py --weight-decay {weight_decay} --seed {seed} --out {out}"
    )(tune.tune)
    app.command(
        epilog="Example: gradscope suggest --out probes -- "
        "python train.py --weight-decay {weight_decay} --seed {seed} --out {out}; "
        "gradscope suggest --delayed -- python train.py --weight-decay {weight_decay} --seed {seed}"
    )(suggest.suggest)
    app.command(epilog="Example: gradscope plot run.h5 --figure proportion -o proportion.png")(plot.plot)
    app.command(epilog="Example: gradscope report failed.h5 delayed.h5 -o report.html")(report.report)
    app.command(epilog="Example: gradscope watch run.h5")(watch.watch)
    app.command(epilog="Example: gradscope compare failed.h5 delayed.h5 -o both.png")(compare.compare)
    app.command(epilog="Example: gradscope export run.h5 --to tensorboard -o logs/run")(export.export)
    app.command(epilog="Example: gradscope recover run.h5 -o saved.h5")(recover.recover)
    app.command(epilog="Example: gradscope schedule delayed:5 --strength 0.006 --steps 2000 --steps-per-epoch 40")(
        schedule.schedule
    )
