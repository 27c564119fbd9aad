"""How fast a corpus is built and how much memory that takes, on COCO data made on the spot.

python benchmarks/corpus.py speed                       # images/s of one core at 512 px, and where the time goes
python benchmarks/corpus.py memory --records 10000 100000   # peak memory of the main process and of a worker
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import json
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from medclm.corpus.build import BuildOptions, build_part
from medclm.corpus.ids import Ids
from medclm.corpus.sources.options import SourceOptions
from medclm.corpus.sources.registry import open_source
from medclm.corpus.writers.template import TemplateWriter

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("nodule", "mass", "consolidation", "fibrosis")
STEPS = {
    "decode": ("sources/detection.py", "read"),
    "link": ("corpus/anatomy.py", "link"),
    "text and checks": ("corpus/drafting.py", "draft_checked"),
    "encode": ("corpus/pixels.py", "encode_png"),
    "rows and shard": ("corpus/parts.py", "write_part"),
}
"""What is timed -> function whose cumulative time it is."""


def make_dataset(folder: Path, *, images: int, size: int, lesions: int, seed: int = 0) -> None:
    """A COCO file, pictures of `size` pixels with the noise and the soft shadows of a film, and two lung masks each."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    y, x = np.mgrid[:size, :size] / size
    lungs = {
        "lung left": ((x - 0.7) / 0.18) ** 2 + ((y - 0.5) / 0.35) ** 2 < 1,
        "lung right": ((x - 0.3) / 0.18) ** 2 + ((y - 0.5) / 0.35) ** 2 < 1,
    }
    noise = np.zeros((size, size))
    shadow = 150 - 80 * sum(mask.astype(float) for mask in lungs.values()) + 30 * np.sin(6 * y)
    for name, mask in lungs.items():
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{name.replace(' ', '_')}.png")
    tables: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
    tables["categories"] = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    for number in range(images):
        name = f"{number:07d}.png"
        if number < 64 or size <= 64:  # drawing noise takes longer than reading it
            noise = rng.normal(0, 6, (size, size))
        picture = np.clip(np.roll(shadow + noise, number, axis=0), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / "images" / name, compress_level=1)
        tables["images"].append({"id": number, "file_name": name, "width": size, "height": size, "patient": f"p{number // 2}"})
        for _ in range(lesions):
            side = rng.uniform(0.05, 0.2) * size
            corner = rng.uniform(0.2 * size, 0.75 * size - side / 2, 2)
            tables["annotations"].append(
                {
                    "id": len(tables["annotations"]),
                    "image_id": number,
                    "category_id": int(rng.integers(len(CLASSES))),
                    "bbox": [*(round(float(c), 1) for c in corner), round(side, 1), round(side, 1)],
                }
            )
    (folder / "boxes.json").write_text(json.dumps(tables))


def flags(folder: Path) -> list[str]:
    """The dataset as flags of `corpus.py build`."""
    return [
        *("--source", "coco", "--annotations", str(folder / "boxes.json"), "--image-root", str(folder / "images")),
        *("--modality", "DX", "--plane", "frontal", "--orientation", "L\\F", "--patient-field", "patient"),
        *("--organ", "*=masks", "--exhaustive", ",".join(CLASSES)),
        *("--near-duplicates", "ignore"),  # the pictures differ by little but noise
    ]


def speed(images: int, size: int) -> None:
    with dataset(images=images, size=size, lesions=3) as folder:
        options = SourceOptions(
            name="made",
            modality="DX",
            plane="frontal",
            patient_directions="L\\F",
            organs=("*=masks",),
            exhaustive=CLASSES,
            patient_field="patient",
        )
        source = open_source("coco", folder / "boxes.json", folder / "images", options)
        settings = BuildOptions(ids=Ids(b"benchmark of speed"), images_per_part=images, progress=False)
        build_part(source, TemplateWriter(), 0, folder / "warm.arrow", replace(settings, images_per_part=8))  # imports, tables
        start = time.process_time()
        counts = build_part(source, TemplateWriter(), 0, folder / "part.arrow", settings)
        seconds = time.process_time() - start
        print(
            f"{images / seconds:.1f} images/s on one core at {size} px ({seconds:.1f} s of processor time for {images} images, {counts['records']} records)"
        )
        profile = cProfile.Profile()
        profile.runcall(build_part, source, TemplateWriter(), 0, folder / "part.arrow", settings)
        stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
        for name, (file, function) in STEPS.items():
            found = [times[3] for (path, _, called), times in stats.items() if path.endswith(file) and called == function]
            print(f"  {name:<16} {1000 * sum(found) / images:6.2f} ms per image (with the profiler on)")


def memory(records: int) -> None:
    with dataset(images=records // 5, size=64, lesions=3) as folder:
        command = [
            sys.executable,
            str(ROOT / "launch" / "corpus.py"),
            "build",
            *flags(folder),
            "--workers",
            "2",
            "--out",
            str(folder / "corpus"),
        ]
        watched = ("-c", _WATCHER)
        start = time.perf_counter()
        env = {"MEDCLM_ID_KEY": "benchmark of memory", "PATH": "/usr/bin"}
        done = subprocess.run(
            [command[0], *watched, *command[1:]],
            capture_output=True,
            text=True,
            env=env,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr)
        lines = done.stdout.splitlines()
        main_mib, worker_mib = next(line.split()[1:] for line in lines if line.startswith("PEAK"))
        print(
            f"{lines[0].split(': ')[1]}: peak {main_mib} MiB in the main process, {worker_mib} MiB in the largest worker; {time.perf_counter() - start:.0f} s"
        )


_WATCHER = """
import os, runpy, sys, threading
sys.argv = sys.argv[1:]
peaks = {}
def peak(pid):  # VmHWM starts anew with exec, unlike the maximum that getrusage gives of a child
    try:
        lines = open(f'/proc/{pid}/status').read().splitlines()
    except OSError:
        return 0
    return max((int(line.split()[1]) // 1024 for line in lines if line.startswith('VmHWM')), default=0)
def watch():
    while not done.wait(0.1):
        for pid in open(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read().split():
            peaks[pid] = max(peaks.get(pid, 0), peak(pid))
done = threading.Event()
threading.Thread(target=watch, daemon=True).start()
code = 0
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
except SystemExit as end:
    code = end.code
done.set()
print('PEAK', peak(os.getpid()), max(peaks.values(), default=0))
sys.exit(code)
"""
"""Runs a command and prints the peak memory of itself and of its largest child, in MiB."""


@contextlib.contextmanager
def dataset(*, images: int, size: int, lesions: int) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        make_dataset(Path(name) / "data", images=images, size=size, lesions=lesions)
        yield Path(name) / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    fast = commands.add_parser("speed")
    fast.add_argument("--images", type=int, default=200)
    fast.add_argument("--size", type=int, default=512)
    big = commands.add_parser("memory")
    big.add_argument("--records", type=int, nargs="+", default=[10_000, 100_000])
    options = parser.parse_args()
    if options.command == "speed":
        speed(options.images, options.size)
    else:
        for records in options.records:
            memory(records)


if __name__ == "__main__":
    main()
