"""Installs tgsr; `pip install -e .` for the framework, `.[test]` for its tests, `.[all]` for every optional part."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
REQUIREMENTS = [r for r in (ROOT / "requirements.txt").read_text().splitlines() if r and not r.startswith("#")]
EXTRAS = {
    # basicsr brings tb-nightly, which lays its files over tensorboard's and imports what setuptools 81 has removed
    "basicsr": ['basicsr>=1.4.2; python_version < "3.13"', "setuptools<81"],
    "lmdb": ["lmdb"],
    "onnx": ["onnx", "onnxruntime", "onnxscript"],
    "wandb": ["wandb"],
}

setup(
    name="tgsr",
    version=re.search(r'__version__ = "(.+?)"', (ROOT / "tgsr/__init__.py").read_text())[1],
    description="Training of image-restoration networks that serve many real-world degradations at once",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["tgsr", "tgsr.*"]),
    package_data={"tgsr": ["metrics/assets/*", "methods/*/printed.yml", "report/templates/*"]},
    install_requires=REQUIREMENTS,
    extras_require={
        **EXTRAS,
        "all": [r for part in EXTRAS.values() for r in part],
        "test": ["pytest", "pytest-timeout", "pytest-xdist", "lmdb", "jsonschema", "ruff", *EXTRAS["basicsr"]],
    },
    entry_points={"console_scripts": ["tgsr=tgsr.cli:main"]},
)
