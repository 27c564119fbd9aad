"""Installs the library `medclm` alone; train/, eval/ and launch/ are run from the repository."""

from pathlib import Path

from setuptools import find_packages, setup

version = next(
    line.split('"')[1]
    for line in Path(__file__).with_name("medclm").joinpath("__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    name="medclm",
    version=version,
    description="Teaches medical vision-language models to localise and reason: grounded chain-of-thought data and curriculum training",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["medclm", "medclm.*"]),
    package_data={"medclm": ["py.typed", "corpus/languages/*.yaml"]},
    install_requires=[
        "torch>=2.11",
        "deepspeed>=0.19",
        "transformers>=5.23",
        "tokenizers>=0.22",
        "safetensors>=0.5",
        "peft>=0.19",
        "datasets>=4",
        "pyarrow>=18",
        "numpy>=2",
        "scipy>=1.13",
        "pillow>=11",
        "pydantic>=2.10",
        "pydantic-settings>=2.7",
        "pyyaml>=6",
        "defusedxml>=0.7",
        "pycocotools>=2.0.8",
        "pydicom>=3.0",
        "python-gdcm>=3.0.24",
        "nibabel>=5.3",
        "openai>=3",
        "httpx2>=2",
        "mlflow>=3.1",
        "tqdm>=4.66",
        "rich>=13",
    ],
    extras_require={
        "gpu": ["flash-attn>=2.7", "ninja"],
        "eval": ["scikit-learn>=1.5", "matplotlib>=3.9", "pycocoevalcap>=1.2", "highdicom>=0.28"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "selenium>=4.30",
            "simpleitk>=2.4",
            "fastapi>=0.115",
            "uvicorn>=0.34",
            "psutil>=6",
            "packaging>=24",
            "huggingface-hub>=1",
            "markdown-it-py>=3",
            "ruff>=0.12",
            "mypy>=1.15",
            "pre-commit>=4",
            "types-PyYAML",
            "types-defusedxml",
        ],
    },
)
