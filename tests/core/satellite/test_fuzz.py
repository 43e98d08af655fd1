"""Granules with random damage: no crash, no hang, and nothing outside the physical range is served as data.

The granules are read in a child process, as a crash that the airlock does not contain would end this one. A damage
that no checksum can show (a flip among uncompressed pixels) is served; how many there were is counted and printed.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
SAMPLE, SOAK, SLICE = 240, 10_000, 1_000
# Beyond the airlock's patience: a hang that it does not end would show.
SECONDS_EACH = 90.0
KINDS = ("flip", "flips", "truncate", "zero", "junk", "swap", "header")


def mutate(content: bytes, generator: np.random.Generator) -> bytes:
    """One random damage of one random kind."""
    data = np.frombuffer(content, np.uint8).copy()
    kind = KINDS[generator.integers(len(KINDS))]
    start = int(generator.integers(len(data)))
    length = int(generator.integers(1, 1 + len(data) // 8))
    if kind == "flip":
        data[start] ^= 1 << generator.integers(8)
    elif kind == "flips":
        where = generator.integers(0, len(data), 16)
        data[where] ^= (1 << generator.integers(0, 8, 16)).astype(np.uint8)
    elif kind == "truncate":
        return content[:start]
    elif kind == "zero":
        data[start : start + length] = 0
    elif kind == "junk":
        piece = data[start : start + length]
        piece[:] = generator.integers(0, 256, len(piece), dtype=np.uint8)
    elif kind == "swap":
        data = np.roll(data, start) if start % 2 else np.concatenate([data[start:], data[:start]])
    else:  # the metadata of these small files sit outside their pixels
        where = generator.integers(0, len(data), 4)
        where[:3] = generator.integers(0, 2048, 3)
        data[where] = generator.integers(0, 256, 4, dtype=np.uint8)
    return data.tobytes()


def granules() -> dict[str, tuple[bytes, str, dict]]:
    """A small granule of each kind: (content, channel, configuration)."""
    from tests.core.satellite import imagers, makers, test_cf, test_gk2a, test_goes, test_himawari

    ami = {"source": "x"}
    counts = test_gk2a.raw((40, 50))
    ahi = test_himawari.truth("B13")
    return {
        "gk2a": (makers.gk2a("ir105", test_gk2a.TIME, counts), "ir105", test_gk2a.config(**ami).model_dump()),
        "gk2a chunked": (
            makers.gk2a("ir105", test_gk2a.TIME, counts, chunks=(16, 16)),
            "ir105",
            test_gk2a.config(**ami).model_dump(),
        ),
        "cf": (makers.cf(test_cf.counts((40, 50)), test_cf.TIME), "infrared", test_cf.config().model_dump()),
        "goes": (
            imagers.goes("C13", test_goes.START, test_goes.raw(shape=(40, 50)), corner=(-0.02, 0.06)),
            "C13",
            test_goes.config().model_dump(),
        ),
        "himawari": (
            imagers.tile("B13", test_himawari.START, ahi, (0, 0), ahi.shape, tiles=1),
            "B13",
            test_himawari.config("x").model_dump(),
        ),
    }


def read_damaged(first: int, last: int) -> None:
    """The child: read the damaged granules of these numbers, telling each before and after on standard output."""
    from core.config import IngestConfig
    from core.satellite import grid, hdf5, himawari, source
    from core.satellite.granule import PHYSICAL_RANGE, CorruptGranule, Granule
    from tests.core.satellite import imagers, test_himawari

    slots = {"gk2a": "2023-09-05T12:30", "cf": "2017-09-05T00:15", "goes": "2023-09-05T18:00"}
    cases, whole = granules(), {}
    for number in range(first, last):
        name = list(cases)[number % len(cases)]
        content, channel, values = cases[name]
        config = IngestConfig.model_validate(values)
        url = imagers.tile_name("B13", test_himawari.START, 1) if config.system == "himawari" else "memory"
        slot = np.datetime64(slots.get(config.system, "2023-09-05T18:00"), "s")
        tile = Granule(url, channel, slot, 0)
        granule = Granule(url, channel, slot, 0, parts=(tile,)) if config.system == "himawari" else tile

        def read(content, granule=granule, config=config, name=name):
            himawari._LAYOUTS.clear()
            file = hdf5.opened(content)
            image = source.checked(granule, [file], config)
            return grid.align(image, whole.get(name) or image.grid)

        if name not in whole:
            good = read(content)
            whole[name] = good.grid
            cases[name] = (content, channel, values)
            whole[name + " values"] = good.values
        print(f"reading {number}", flush=True)
        started = time.monotonic()
        try:
            frame = read(mutate(content, np.random.default_rng([7, number])))
        except CorruptGranule as error:
            ended = next((how for how in ("crashed", "hung") if f"library {how}" in error.text), "")
            outcome = f"{error.reason.name} (library {ended})" if ended else error.reason.name
        else:
            low, high = PHYSICAL_RANGE[frame.kind]
            there = frame.values[~np.isnan(frame.values)]
            assert ((there >= low) & (there <= high)).all()
            same = np.array_equal(frame.values, whole[name + " values"], equal_nan=True)
            outcome = "unharmed" if same else "partial" if frame.reason else "served changed"
        print(json.dumps([number, outcome, time.monotonic() - started]), flush=True)


def run_slice(first: int, last: int) -> Counter[str]:
    """Outcomes of these granules, by kind; a crash or a hang of the child fails with the granule's number."""
    code = f"from tests.core.satellite.test_fuzz import read_damaged; read_damaged({first}, {last})"
    child = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    lines = child.stdout.splitlines()
    assert child.returncode == 0, f"exit {child.returncode} at: {lines[-1:]}\n{child.stderr[-2000:]}"
    ended = [json.loads(line) for line in lines if line.startswith("[")]
    assert [number for number, _, _ in ended] == list(range(first, last))
    assert max(seconds for _, _, seconds in ended) < SECONDS_EACH
    return Counter(outcome for _, outcome, _ in ended)


def run(total: int) -> Counter[str]:
    """Outcomes of the first `total` granules, in slices side by side."""
    starts = range(0, total, SLICE)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sum(pool.map(run_slice, starts, [min(s + SLICE, total) for s in starts]), Counter())


@pytest.mark.parametrize("total", [SAMPLE, pytest.param(SOAK, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_damage_never_crashes_hangs_or_is_served_unphysical(total):
    outcomes = run(total)
    print(f"\n{total} damaged granules: " + ", ".join(f"{n} {k}" for k, n in sorted(outcomes.items())))
    refused = total - sum(outcomes.get(k, 0) for k in ("unharmed", "partial", "served changed"))
    assert refused > total / 4
