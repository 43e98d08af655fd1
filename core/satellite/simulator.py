"""Writes a known sky as GK-2A granules in the public layout, to be read back like the real ones."""

import io
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
import h5netcdf
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from core.config import IngestConfig
from core.report import Report, Silent
from core.satellite.truth import Sky, Truth

EPOCH = np.datetime64("2000-01-01T12:00:00", "s")
LIGHT, BOLTZMANN, PLANCK = 2.9979245800e08, 1.3806488000e-23, 6.6260695700e-34
# Navigation of the published local area at 2 km; the pixel edges of the finer bands nest in it.
FACTOR, COLUMN_OFFSET, LINE_OFFSET = 20425338.903339352, 314.30357081070537, 2089.571379176208
SCAN_START_SECONDS = 31


@dataclass(frozen=True)
class Band:
    """One band's calibration, and how it sees the sky.

    Infrared: Tbb = c0 + c1 Teff + c2 Teff^2; `clear` is the share of surface radiation that reaches space and `air` (K)
    the temperature of the rest. Visible: `clear` is the surface's reflectance factor and `air` that of thick cloud.
    """

    wavelength: float
    bits: int
    gain: float
    offset: float
    clear: float
    air: float
    albedo: float = 0.0
    c: tuple[float, float, float] = (0.0, 1.0, 0.0)
    finer: int = 1

    @property
    def infrared(self) -> bool:
        return self.albedo == 0


BANDS = {
    "vi004": Band(0.47, 11, 0.363545805, -7.270904541, 0.10, 0.80, albedo=0.0015582450, finer=2),
    "vi005": Band(0.509, 11, 0.343625486, -6.872497559, 0.09, 0.80, albedo=0.0016595767, finer=2),
    "vi006": Band(0.639, 12, 0.154856294, -6.194244385, 0.08, 0.82, albedo=0.0019244840, finer=4),
    "vi008": Band(0.863, 13, 0.045724172, -3.657928467, 0.18, 0.80, albedo=0.0032723873, finer=2),
    "nr013": Band(1.37, 12, 0.034687810, -1.387512207, 0.01, 0.45, albedo=0.0087081313),
    "nr016": Band(1.61, 11, 0.049800798, -0.996017456, 0.16, 0.50, albedo=0.0129512876),
    "sw038": Band(3.83, 14, -0.00108296517, 17.6999874, 0.95, 285, c=(-0.447843940, 1.000655681, -6.3382409e-08)),
    "wv063": Band(6.21, 12, -0.0108914673, 44.1777038, 0.00, 237, c=(-1.762794940, 1.004149106, -9.8331091e-07)),
    "wv069": Band(6.94, 13, -0.00818779878, 66.7480774, 0.02, 247, c=(-0.334311414, 1.000973599, -4.9460307e-07)),
    "wv073": Band(7.33, 13, -0.00969827175, 79.0608521, 0.10, 257, c=(-0.061312486, 1.000190087, -1.0586366e-07)),
    "ir087": Band(8.59, 13, -0.0144806551, 118.0509033, 0.90, 280, c=(-0.141418528, 1.000522329, -3.6287276e-07)),
    "ir096": Band(9.62, 13, -0.0178435463, 145.4648743, 0.55, 250, c=(-0.114017728, 1.000473806, -3.7493151e-07)),
    "ir105": Band(10.35, 13, -0.0198196955, 161.5801392, 0.96, 282, c=(-0.142866448, 1.000640696, -5.5044329e-07)),
    "ir112": Band(11.23, 13, -0.0216744859, 176.7134399, 0.94, 281, c=(-0.249111718, 1.001211669, -1.1316796e-06)),
    "ir123": Band(12.36, 13, -0.0233789725, 190.6496277, 0.90, 279, c=(-0.458113886, 1.002455210, -2.5306431e-06)),
    "ir133": Band(13.29, 13, -0.0243037567, 198.2243652, 0.50, 258, c=(-0.093852157, 1.000539821, -5.9491372e-07)),
}
HIGH_TOP, LOW_TOP = 218.0, 268.0


def key(channel: str, time: np.datetime64) -> str:
    """The public key of a local-area granule."""
    moment: datetime = time.astype("datetime64[s]").item()
    code = {1: "020", 2: "010", 4: "005"}[BANDS[channel].finer]
    return f"AMI/L1B/LA/{moment:%Y%m/%d/%H}/gk2a_ami_le1b_{channel}_la{code}ge_{moment:%Y%m%d%H%M}.nc"


def simulate(config: IngestConfig, *, report: Report | None = None) -> list[str]:
    """Write the granules of every slot and channel that the source does not hold yet; returns the keys written.

    A granule is a function of (seed, channel, time) alone, so a source can grow in any order and in many runs.
    """
    report = report or Silent()
    filesystem, root = _place(config)
    folder = f"{root}/AMI/L1B/LA"
    present = {path.rsplit("/", 1)[-1] for path in filesystem.find(folder)} if filesystem.exists(folder) else set()
    truth = Truth(config.simulator.seed, config.simulator.pixels)
    times = slot_times(config)
    written = []
    for done, time in enumerate(times, 1):
        keys = {name: key(name, time) for name in config.channels}
        missing = {name: path for name, path in keys.items() if path.rsplit("/", 1)[-1] not in present}
        if missing:
            sky = truth.at(time)
            for name, path in missing.items():
                _put(filesystem, f"{root}/{path}", granule_bytes(name, time, sky, config.simulator.seed))
                written.append(path)
        report.progress(done, len(times), "simulated slots")
    return written


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


def granule_bytes(channel: str, time: np.datetime64, sky: Sky, seed: int = 0) -> bytes:
    """One granule file of a channel under this sky."""
    band = BANDS[channel]
    observed = observe(band, sky, noise_of(seed, channel, time))
    counts = to_counts(band, observed).repeat(band.finer, 0).repeat(band.finer, 1)
    return _netcdf(channel, time, counts, _area(band, counts.shape))


def noise_of(seed: int, channel: str, time: np.datetime64) -> np.random.Generator:
    """The generator of one granule's noise."""
    return np.random.default_rng([seed, 2, *channel.encode(), int(time.astype("datetime64[m]").astype(np.int64))])


def observe(band: Band, sky: Sky, generator: np.random.Generator) -> NDArray[np.float32]:
    """What a noiseless sky looks like in a band, plus noise: kelvin, or percent of reflectance (Y, X)."""
    noise = generator.standard_normal(sky.low.shape, dtype=np.float32) * sky.noise
    if band.infrared:
        below = (1 - sky.low) * sky.surface + sky.low * LOW_TOP
        air = band.air + 4 * sky.moisture * (1 - band.clear)
        clear = band.clear * below + (1 - band.clear) * air
        top = min(HIGH_TOP, band.air)
        return np.asarray((1 - sky.high) * clear + sky.high * top + noise, np.float32)
    cloud = np.maximum(0.8 * sky.low, sky.high)
    return np.asarray(
        100 * max(sky.sun, 0.0) * (band.clear + (band.air - band.clear) * cloud) + 0.3 * noise, np.float32
    )


def to_counts(band: Band, values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The raw counts whose calibration by the file's constants gives these values: the inverse of the reader."""
    exact = values.astype(np.float64)
    if band.infrared:
        c0, c1, c2 = band.c
        effective = (np.sqrt(c1**2 - 4 * c2 * (c0 - exact)) - c1) / (2 * c2)
        nu = 1e6 / band.wavelength
        ratio = np.expm1(PLANCK * LIGHT * nu / BOLTZMANN / effective)
        radiance = 2 * PLANCK * LIGHT**2 * nu**3 / ratio * 1e5
    else:
        radiance = exact / 100 / band.albedo
    return np.clip(np.rint((radiance - band.offset) / band.gain), 1, 2**band.bits - 1).astype(np.uint16)


def _area(band: Band, shape: tuple[int, ...]) -> dict[str, Any]:
    """Navigation of the local area at the band's resolution."""
    lines, columns = shape
    return {
        "number_of_lines": np.int32(lines),
        "number_of_columns": np.int32(columns),
        "cfac": FACTOR * band.finer,
        "lfac": -FACTOR * band.finer,
        "coff": (COLUMN_OFFSET - 0.5) * band.finer + 0.5,
        "loff": (LINE_OFFSET - 0.5) * band.finer + 0.5,
        "channel_spatial_resolution": f"{2 / band.finer:.1f}",
    }


def _netcdf(channel: str, time: np.datetime64, counts: NDArray[np.uint16], area: dict[str, Any]) -> bytes:
    band = BANDS[channel]
    start = float((time.astype("datetime64[s]") - EPOCH) / np.timedelta64(1, "s")) + SCAN_START_SECONDS
    file_attributes = {
        "satellite_name": "GK-2A",
        "instrument_name": "AMI",
        "data_processing_center": "simulated",
        "observation_mode": "LA",
        "observation_start_time": start,
        "observation_end_time": start + 40.0,
        "file_name": key(channel, time).rsplit("/", 1)[-1],
        "file_generation_time": start + 120.0,
        "projection_type": "GEOS",
        "sub_longitude": 2.2375121010567303,
        "nominal_satellite_height": 42164000.0,
        "earth_equatorial_radius": 6378137.0,
        "earth_polar_radius": 6356752.3,
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
        pixels = file.create_variable("image_pixel_values", ("dim_image_y", "dim_image_x"), np.uint16, data=counts)
        pixels.attrs.update(pixel_attributes)
        position = file.create_variable("sc_position", (), np.int8)
        position.attrs["sc_position_center_pixel"] = np.array([-26113466.1974016, 33100139.1630508, 3943.75470244799])
    return buffer.getvalue()
