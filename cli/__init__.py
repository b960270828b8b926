"""``gradscope`` command line: one file a command, each a thin shell over a plain function."""

import sys
from importlib.util import find_spec

if find_spec("gradscope.extras") is None:
    print(
        "gradscope: the package that `import gradscope` finds is somebody else's, installed as 'gradscope': "
        "pip uninstall gradscope, then pip install --force-reinstall --no-deps gradscope-dynamics",
        file=sys.stderr,
    )
    raise SystemExit(2)
