"""Map packages to the extras of the distribution that bring them, and tell users how to install a missing one."""

from __future__ import annotations

#: The name under which this package is installed; its import name is somebody else's on the index.
DISTRIBUTION = "gradscope-dynamics"

#: Packages that are not needed to read records with the commands that print.
EXTRA_OF = {
    "torch": "torch",
    "numba": "fast",
    "bokeh": "report",
    "jinja2": "report",
    "matplotlib": "report",
    "scipy": "report",
    "sklearn": "demo",
    "distributed": "dask",
    "dask": "dask",
    "submitit": "slurm",
    "zarr": "export",
    "pyarrow": "export",
    "tensorboard": "export",
    "google_crc32c": "export",
    "lightning": "lightning",
    "transformers": "transformers",
    "accelerate": "transformers",
    "wandb": "wandb",
    "trackio": "trackio",
    "mlflow": "mlflow",
    "fsspec": "remote",
}


def install(package: str, extra: str | None = None) -> str:
    """Return the command that installs a package, by its import name, through the extra that brings it."""
    return f"pip install '{DISTRIBUTION}[{extra or EXTRA_OF[package]}]'"


def missing(what: str, package: str, extra: str | None = None) -> str:
    """Tell in one line what needs a missing package, and how to install it (with a smaller extra)."""
    return f"{what} needs the package {package}, which is not installed: {install(package, extra)}"


def missing_for(what: str, error: ImportError) -> str | None:
    """Tell the same of an import that failed; None where it is not an extra of ours that is missing."""
    package = (error.name or "").partition(".")[0]
    return missing(what, package) if isinstance(error, ModuleNotFoundError) and package in EXTRA_OF else None
