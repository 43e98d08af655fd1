"""GK-2A and CF granules in the public layouts, written small and by other code than the readers'."""

import io
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

LIGHT, BOLTZMANN, PLANCK = 2.9979245800e08, 1.3806488000e-23, 6.6260695700e-34
# gain, offset, valid bits, wavelength (um), c0, c1, c2 or the albedo factor: magnitudes of real headers.
AMI = {
    "vi004": (0.363545805, -7.27090454, 11, 0.47, 0.001558245),
    "vi005": (0.343625486, -6.87249756, 11, 0.509, 0.0016595767),
    "vi006": (0.154856294, -6.19424438, 12, 0.639, 0.001924484),
    "vi008": (0.0457241721, -3.65792846, 13, 0.863, 0.0032723873),
    "nr013": (0.0346878096, -1.38751220, 12, 1.37, 0.0087081313),
    "nr016": (0.0498007983, -0.996017456, 11, 1.61, 0.0129512876),
    "sw038": (-0.00108296517, 17.6999874, 14, 3.83, (-0.44784394, 1.000655681, -6.3382409e-08)),
    "wv063": (-0.0108914673, 44.1777038, 12, 6.21, (-1.76279494, 1.004149106, -9.8331091e-07)),
    "wv069": (-0.00818779878, 66.7480774, 13, 6.94, (-0.334311414, 1.000973599, -4.9460307e-07)),
    "wv073": (-0.00969827175, 79.0608521, 13, 7.33, (-0.061312486, 1.000190087, -1.0586366e-07)),
    "ir087": (-0.0144806551, 118.0509033, 13, 8.59, (-0.141418528, 1.000522329, -3.6287276e-07)),
    "ir096": (-0.0178435463, 145.4648743, 13, 9.62, (-0.114017728, 1.000473806, -3.7493151e-07)),
    "ir105": (-0.0198196955, 161.5801392, 13, 10.35, (-0.142866448, 1.000640696, -5.5044329e-07)),
    "ir112": (-0.0216744859, 176.7134399, 13, 11.23, (-0.249111718, 1.001211669, -1.1316796e-06)),
    "ir123": (-0.0233789725, 190.6496277, 13, 12.36, (-0.458113886, 1.00245521, -2.5306431e-06)),
    "ir133": (-0.0243037567, 198.2243652, 13, 13.29, (-0.093852157, 1.000539821, -5.9491372e-07)),
}
AMI_CODE = {"vi006": ("005", 4), "vi004": ("010", 2), "vi005": ("010", 2), "vi008": ("010", 2)}
LA_OFFSETS, LA_FACTOR = (314.30357081070537, 2089.571379176208), 20425338.903339352


def gk2a_name(channel: str, time: str, sector: str = "la") -> str:
    """Key of a granule; `time` as 'YYYYMMDDHHMM'."""
    folder = f"AMI/L1B/{sector.upper()}/{time[:6]}/{time[6:8]}/{time[8:10]}"
    return f"{folder}/gk2a_ami_le1b_{channel}_{sector}{AMI_CODE.get(channel, ('020', 1))[0]}ge_{time}.nc"


def gk2a(
    channel: str,
    time: str,
    raw: NDArray[np.uint16],
    *,
    sector: str = "la",
    shift: tuple[float, float] = (0, 0),
    late_seconds: float = 31,
    attributes: Mapping[str, Any] | None = None,
    drop: tuple[str, ...] = (),
    chunks: tuple[int, int] | None = None,
    packed: bytes | None = None,
) -> bytes:
    """One AMI granule with these raw counts (quality bits included); `shift` moves the area by (lines, columns).

    With `packed`, one deflated chunk, every chunk is that and only the shape of `raw` counts: a large disk in no time.
    """
    gain, offset, bits, wavelength, last = AMI[channel]
    finer = AMI_CODE.get(channel, ("020", 1))[1]
    lines, columns = raw.shape
    if sector == "la":
        coff, loff = ((value - 0.5) * finer + 0.5 for value in LA_OFFSETS)
    else:
        coff, loff = columns / 2 + 0.5, lines / 2 + 0.5
    stamp = f"{time[:4]}-{time[4:6]}-{time[6:8]}T{time[8:10]}:{time[10:12]}"
    seconds = (np.datetime64(stamp, "s") - np.datetime64("2000-01-01T12:00", "s")) / np.timedelta64(1, "s")
    header: dict[str, Any] = {
        "satellite_name": "GK-2A",
        "observation_mode": sector.upper(),
        "observation_start_time": float(seconds) + late_seconds,
        "observation_end_time": float(seconds) + late_seconds + 40,
        "number_of_lines": np.int32(lines),
        "number_of_columns": np.int32(columns),
        "channel_spatial_resolution": f"{2 / finer:.1f}",
        "channel_center_wavelength": wavelength,
        "cfac": LA_FACTOR * finer,
        "lfac": -LA_FACTOR * finer,
        "coff": coff - shift[1],
        "loff": loff - shift[0],
        "sub_longitude": 2.2375121010567303,
        "nominal_satellite_height": 42164000.0,
        "earth_equatorial_radius": 6378137.0,
        "earth_polar_radius": 6356752.3,
        "DN_to_Radiance_Gain": gain,
        "DN_to_Radiance_Offset": offset,
        "light_speed": LIGHT,
        "Boltzmann_constant_k": BOLTZMANN,
        "Plank_constant_h": PLANCK,
        "channel_name": channel.upper(),
        "number_of_valid_bits_per_pixel": np.uint8(bits),
        "number_of_data_quality_flag_bits_per_pixel": np.uint8(2),
    }
    if isinstance(last, tuple):
        header |= {f"Teff_to_Tbb_c{i}": c for i, c in enumerate(last)}
    else:
        header["Radiance_to_Albedo_c"] = last
    header |= attributes or {}
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        pixels = file.create_dataset(
            "image_pixel_values",
            raw.shape,
            raw.dtype,
            data=raw if packed is None else None,
            chunks=chunks,
            compression="gzip" if chunks else None,
            track_times=False,
        )
        for place in pixels.iter_chunks() if packed is not None else ():
            pixels.id.write_direct_chunk(tuple(part.start for part in place), packed)
        for name, dimension in (("dim_image_y", 0), ("dim_image_x", 1)):
            scale = file.create_dataset(name, data=np.zeros(raw.shape[dimension], "f4"), track_times=False)
            scale.make_scale(name)
            pixels.dims[dimension].attach_scale(scale)
        position = file.create_dataset("sc_position", data=np.uint8(0), track_times=False)
        position.attrs["sc_position_center_pixel"] = [-26113466.1974016, 33100139.1630508, 3943.75470244799]
        on_pixels = ("channel_name", "number_of_valid_bits_per_pixel", "number_of_data_quality_flag_bits_per_pixel")
        for name, value in header.items():
            if name not in drop:
                (pixels if name in on_pixels else file).attrs[name] = value
    return buffer.getvalue()


def cf(
    values: NDArray[Any],
    time: str,
    *,
    name: str = "infrared",
    x0: float = -974413.7,
    y0: float = 4658681.0,
    step: float = 7987.0,
    units: str = "1",
    attributes: Mapping[str, Any] | None = None,
    south_first: bool = False,
    mapping: str = "mercator",
    drop: tuple[str, ...] = (),
) -> bytes:
    """One CF frame on a Mercator grid like the sample's; `time` in ISO form."""
    lines, columns = values.shape
    y = y0 - step * np.arange(lines)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["y"], file["x"] = (y[::-1] if south_first else y), x0 + step * np.arange(columns)
        for coordinate in ("x", "y"):
            file[coordinate].attrs["units"] = "m"
        file["time"] = np.datetime64(time, "s").astype(np.int64)
        file["time"].attrs["units"] = "seconds since 1970-01-01"
        file["mercator"] = np.int32(0)
        crs = {
            "grid_mapping_name": mapping,
            "longitude_of_projection_origin": np.array([-90.0]),
            "standard_parallel": np.array([0.0]),
            "earth_radius": np.array([6371228.0]),
            "false_easting": np.array([0.0]),
            "false_northing": np.array([0.0]),
        }
        for key, value in crs.items():
            file["mercator"].attrs[key] = value
        file[name] = values[::-1] if south_first else values
        for dimension, coordinate in enumerate("yx"):
            file[coordinate].make_scale(coordinate)
            file[name].dims[dimension].attach_scale(file[coordinate])
        for key, value in ({"units": units, "grid_mapping": "mercator"} | dict(attributes or {})).items():
            if key not in drop:
                file[name].attrs[key] = value
        for key in drop:
            if key in file:
                del file[key]
    return buffer.getvalue()
