"""Writes a known sky, of clouds or of a linear process, as GK-2A granules to be read back like the real ones."""

import io
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec
import h5netcdf
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from core.config import IngestConfig
from core.errors import FewcastError
from core.report import Report, Silent
from core.satellite.bands import BANDS, BOLTZMANN, LIGHT, PLANCK, Band, noise_of, observe, to_counts
from core.satellite.faults import Fault, fault_of, spoil
from core.satellite.linear_sky import MINUTES_A_DAY, LinearSky
from core.satellite.truth import SIDE, Truth

EPOCH = np.datetime64("2000-01-01T12:00:00", "s")
# Navigation of the published local area at 2 km; the pixel edges of the finer bands nest in it.
FACTOR, COLUMN_OFFSET, LINE_OFFSET = 20425338.903339352, 314.30357081070537, 2089.571379176208
DISK_SIDE = 5500
SATELLITE_RADIUS, EQUATOR_RADIUS, POLE_RADIUS = 42164000.0, 6378137.0, 6356752.3
OUT_OF_SCAN = np.uint16(2 << 14)
SCAN_START_SECONDS = 31
FINER_CODE = {1: "020", 2: "010", 4: "005"}


def key(channel: str, time: np.datetime64, sector: str = "la") -> str:
    """The public key of a granule."""
    moment: datetime = time.astype("datetime64[s]").item()
    code = FINER_CODE[BANDS[channel].finer]
    name = f"gk2a_ami_le1b_{channel}_{sector}{code}ge_{moment:%Y%m%d%H%M}.nc"
    return f"AMI/L1B/{sector.upper()}/{moment:%Y%m/%d/%H}/{name}"


def simulate(config: IngestConfig, *, report: Report | None = None) -> list[str]:
    """Write the granules of every slot and channel that the source does not hold yet; returns the keys written.

    A granule is a function of (seed, channel, time) alone, so a source can grow in any order and in many runs.
    With `simulator.faults` a share of them is spoilt, as `core.satellite.faults` says.
    """
    report = report or Silent()
    settings = config.simulator
    sector = _sector(config)
    filesystem, root = _place(config)
    folder = f"{root}/AMI/L1B/{sector.upper()}"
    present = {path.rsplit("/", 1)[-1] for path in filesystem.find(folder)} if filesystem.exists(folder) else set()
    newest = max((name[-15:-3] for name in present), default="")
    see = _view(config, sector)
    cadence = np.timedelta64(config.cadence_minutes, "m")
    times = slot_times(config)
    written = []
    for done, time in enumerate(times, 1):
        for name in config.channels:
            path = key(name, time, sector)
            if path.rsplit("/", 1)[-1] in present:
                continue
            fault = fault_of(settings.seed, name, time, settings.faults)
            if fault == Fault.LATE and newest <= path[-15:-3]:
                continue
            seen, when = name, time
            if fault == Fault.DUPLICATED:
                when = time - cadence
            elif fault == Fault.MISLABELLED:
                seen = next(other for other in BANDS if other != name and BANDS[other].finer == BANDS[name].finer)
            changes: dict[str, Any] = {}
            if fault == Fault.WRONG_GRID:
                changes = {"cfac": 1.5 * FACTOR, "lfac": -1.5 * FACTOR}
            content = granule_bytes(seen, when, see(seen, when), sector, blank=fault == Fault.ALL_ZERO, **changes)
            _put(filesystem, f"{root}/{path}", spoil(fault, content, noise_of(settings.seed, name, time)))
            written.append(path)
        report.progress(done, len(times), "simulated slots")
    return written


def _view(config: IngestConfig, sector: str) -> Callable[[str, np.datetime64], NDArray[np.float32]]:
    """What a channel sees at a time (Y, X), in kelvin or percent, by the configured process."""
    settings = config.simulator
    if settings.process == "clouds":
        sky_at = lru_cache(maxsize=2)(Truth(settings.seed, SIDE if sector == "fd" else settings.pixels).at)

        def observed(channel: str, time: np.datetime64) -> NDArray[np.float32]:
            return observe(BANDS[channel], sky_at(time), noise_of(settings.seed, channel, time))

        return observed
    midnight = config.origin.hour == config.origin.minute == 0
    suited = sector == "la" and len(config.channels) == 1 and BANDS[config.channels[0]].infrared
    if not suited or settings.faults or config.block > 1 or MINUTES_A_DAY % config.cadence_minutes or not midnight:
        raise FewcastError(
            "the linear process is one infrared channel of a local area, whole, from midnight on",
            found=f"sector {sector}, channels {', '.join(config.channels)}, faults {settings.faults:g}, block "
            f"{config.block}, origin {config.origin:%H:%M}, cadence {config.cadence_minutes} minutes",
            mend="set sector la, one channel such as ir105, faults 0, block 1, an origin at midnight and a cadence "
            "that divides a day, or ingest.simulator.process=clouds",
        )
    sky = LinearSky(settings.seed, settings.pixels, settings.region_pixels)
    return lambda channel, time: sky.at(time, config.cadence_minutes)


def slot_times(config: IngestConfig) -> list[np.datetime64]:
    """Nominal times of the archive's slots within `config.times`."""
    origin, start, end = (
        np.datetime64(moment.replace(tzinfo=None), "m")
        for moment in (config.origin, config.times.start, config.times.end)
    )
    cadence = np.timedelta64(config.cadence_minutes, "m")
    first = origin + -((origin - start) // cadence) * cadence
    return list(np.arange(first, end, cadence).astype("datetime64[s]"))


def _place(config: IngestConfig) -> tuple[Any, str]:
    options = {"endpoint_url": config.endpoint_url} if config.endpoint_url else {}
    filesystem, root = fsspec.core.url_to_fs(config.source, **options)
    return filesystem, root.rstrip("/")


def _put(filesystem: Any, path: str, data: bytes) -> None:
    """Write a whole file at once, so that a killed simulator leaves no torn granule behind."""
    if isinstance(filesystem, LocalFileSystem):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        beside = Path(path).with_suffix(".part")
        beside.write_bytes(data)
        beside.replace(path)
    else:
        filesystem.pipe_file(path, data)


def _sector(config: IngestConfig) -> str:
    wrong = [name for name in config.channels if name not in BANDS]
    if config.system != "gk2a" or config.sector not in ("la", "fd") or wrong:
        raise FewcastError(
            "only GK-2A granules are simulated",
            found=f"system {config.system}, sector {config.sector or '(none)'}, channels {', '.join(config.channels)}",
            mend="set ingest.simulator.enabled=false, or system gk2a, sector la or fd, and AMI channels",
        )
    return config.sector


def granule_bytes(
    channel: str,
    time: np.datetime64,
    values: NDArray[np.float32],
    sector: str = "la",
    *,
    blank: bool = False,
    **changes: Any,
) -> bytes:
    """One granule file of what a channel sees (Y, X), in kelvin or percent; `changes` are file attributes that lie."""
    band = BANDS[channel]
    counts = to_counts(band, values)
    if sector == "fd":
        # The sky is mirrored over the disk, so that it has no seams.
        times_over = -(-DISK_SIDE // len(counts))
        counts = np.pad(counts, (0, (times_over - 1) * len(counts)), mode="symmetric")[:DISK_SIDE, :DISK_SIDE]
        counts = np.where(_on_disk(), counts, OUT_OF_SCAN)
    counts = counts.repeat(band.finer, 0).repeat(band.finer, 1)
    if blank:
        counts = np.zeros_like(counts)
    return _netcdf(channel, time, counts, _area(band, counts.shape, sector) | changes, sector)


@lru_cache(maxsize=1)
def _on_disk() -> NDArray[np.bool_]:
    """Whether the line of sight of each 2 km pixel meets the Earth (the CGMS quadratic has a root)."""
    angle = np.deg2rad((np.arange(DISK_SIDE) - (DISK_SIDE - 1) / 2) * 2**16 / FACTOR)
    cos_x, cos_y, sin_y = np.cos(angle)[None], np.cos(angle)[:, None], np.sin(angle)[:, None]
    flattening = (EQUATOR_RADIUS / POLE_RADIUS) ** 2
    reach = (SATELLITE_RADIUS * cos_x * cos_y) ** 2
    return np.asarray(
        reach > (cos_y**2 + flattening * sin_y**2) * (SATELLITE_RADIUS**2 - EQUATOR_RADIUS**2), dtype=np.bool_
    )


def _area(band: Band, shape: tuple[int, ...], sector: str) -> dict[str, Any]:
    """Navigation at the band's resolution."""
    lines, columns = shape
    middle = (DISK_SIDE + 1) / 2
    column, line = (middle, middle) if sector == "fd" else (COLUMN_OFFSET, LINE_OFFSET)
    return {
        "number_of_lines": np.int32(lines),
        "number_of_columns": np.int32(columns),
        "cfac": FACTOR * band.finer,
        "lfac": -FACTOR * band.finer,
        "coff": (column - 0.5) * band.finer + 0.5,
        "loff": (line - 0.5) * band.finer + 0.5,
        "channel_spatial_resolution": f"{2 / band.finer:.1f}",
    }


def _netcdf(channel: str, time: np.datetime64, counts: NDArray[np.uint16], area: dict[str, Any], sector: str) -> bytes:
    band = BANDS[channel]
    start = float((time.astype("datetime64[s]") - EPOCH) / np.timedelta64(1, "s")) + SCAN_START_SECONDS
    file_attributes = {
        "satellite_name": "GK-2A",
        "instrument_name": "AMI",
        "data_processing_center": "simulated",
        "observation_mode": sector.upper(),
        "observation_start_time": start,
        "observation_end_time": start + 40.0,
        "file_name": key(channel, time, sector).rsplit("/", 1)[-1],
        "file_generation_time": start + 120.0,
        "projection_type": "GEOS",
        "sub_longitude": 2.2375121010567303,
        "nominal_satellite_height": SATELLITE_RADIUS,
        "earth_equatorial_radius": EQUATOR_RADIUS,
        "earth_polar_radius": POLE_RADIUS,
        "channel_center_wavelength": band.wavelength,
        "DN_to_Radiance_Gain": band.gain,
        "DN_to_Radiance_Offset": band.offset,
        "light_speed": LIGHT,
        "Boltzmann_constant_k": BOLTZMANN,
        "Plank_constant_h": PLANCK,
        **area,
    }
    if band.infrared:
        file_attributes |= {f"Teff_to_Tbb_c{power}": value for power, value in enumerate(band.c)}
    else:
        file_attributes["Radiance_to_Albedo_c"] = band.albedo
    pixel_attributes = {
        "channel_name": channel.upper(),
        "number_of_total_pixels": np.int32(counts.size),
        "number_of_error_pixels": np.int32(0),
        "max_pixel_value": counts.max(),
        "min_pixel_value": counts.min(),
        "number_of_total_bits_per_pixel": np.uint8(16),
        "number_of_data_quality_flag_bits_per_pixel": np.uint8(2),
        "number_of_valid_bits_per_pixel": np.uint8(band.bits),
        "data_quality_flag_meaning": "0:good_pixel, 1:conditionally_usable_pixel, 2:out_of_scan_area_pixel, "
        "3:error_pixel",
    }
    buffer = io.BytesIO()
    with h5netcdf.File(buffer, "w") as file:
        file.dimensions = {"dim_image_y": counts.shape[0], "dim_image_x": counts.shape[1]}
        file.attrs.update(file_attributes)
        # As published: a local area is stored plain, a full disk in compressed chunks.
        storage = {"chunks": (550, 550), "compression": "gzip", "compression_opts": 1} if sector == "fd" else {}
        pixels = file.create_variable(
            "image_pixel_values", ("dim_image_y", "dim_image_x"), np.uint16, data=counts, **storage
        )
        pixels.attrs.update(pixel_attributes)
        position = file.create_variable("sc_position", (), np.int8)
        position.attrs["sc_position_center_pixel"] = np.array([-26113466.1974016, 33100139.1630508, 3943.75470244799])
    return buffer.getvalue()
